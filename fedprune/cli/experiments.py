"""Commands that run an experiment on this machine: simulate, train, resume."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from fedprune.cli import fleet as cli_fleet
from fedprune.cli.ended import compared, summary
from fedprune.cli.progress import Display
from fedprune.experiment import Experiment, ExperimentError, load

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


class Engine(StrEnum):
    """Where the devices of a simulation run."""

    local = "local"
    ray = "ray"


DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the data sets that lie in files.", envvar="FEDPRUNE_DATA_DIR")
]
Ray = Annotated[
    str | None,
    typer.Option(help="Address of a Ray cluster for --engine ray.", metavar="ADDRESS", show_default="one of its own"),
]
Run = Annotated[Path, typer.Argument(help="Folder of a run, such as runs/digits.", metavar="RUN")]


def mount(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    for command in (simulate, train, resume):
        app.command()(command)


def simulate(
    file: Annotated[Path, typer.Argument(help="The experiment: a TOML file.", metavar="FILE")],
    set: Annotated[
        list[str], typer.Option(help="Change a key, e.g. --set training.epochs=2.", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.", min=0)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/NAME")] = None,
    engine: Annotated[Engine, typer.Option(help="These processes, or Flower's simulation on Ray.")] = Engine.local,
    data_dir: DataDir = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes of the local engine.", min=1, show_default="one a core")
    ] = None,
    ray: Ray = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, even where an unfinished run lies.")] = False,
    scratch: Annotated[
        bool,
        typer.Option("--scratch", help="Train the smaller net from fresh weights too: was it worth it?"),
    ] = False,
) -> None:
    """Run a federation on this machine, from private data to a tiny model. FILE is the experiment, in TOML."""
    from fedprune.runs import scratch as arms

    experiment = load(file, set, seed=seed)
    given, folder = _Given(str(file), data_dir, resume, fresh), out or Path("runs") / experiment.name
    run = _simulation(engine, workers, ray)
    if not scratch:
        summary(console, _shown(experiment, folder, given, run), folder)
        return
    arms.possible(experiment, str(file))
    result = _shown(experiment, folder, given, run)
    summary(console, result, folder)  # first, so that it is there whatever becomes of the rest
    again = given._replace(resume=True, fresh=False)
    found = arms.scratch(folder, str(file), _text(data_dir), lambda each, to: _shown(each, to, again, run))
    compared(console, result, found)


def train(
    file: Annotated[Path, typer.Argument(help="The experiment: a TOML file.", metavar="FILE")],
    set: Annotated[
        list[str], typer.Option(help="Change a key, e.g. --set training.epochs=2.", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.", min=0)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/NAME_central")] = None,
    data_dir: DataDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, even where an unfinished run lies.")] = False,
) -> None:
    """Run an experiment on one holder of all devices' data, without Flower: what a federation is compared with."""
    from fedprune.runs.run import train as run

    experiment = load(file, set, seed=seed)
    given = _Given(str(file), data_dir, resume, fresh)
    folder = out or Path("runs") / f"{experiment.name}_central"
    summary(console, _shown(experiment, folder, given, run), folder)


def resume(
    run: Run,
    engine: Annotated[Engine, typer.Option(help="These processes, or Flower's simulation on Ray.")] = Engine.local,
    data_dir: DataDir = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes of the local engine.", min=1, show_default="one a core")
    ] = None,
    ray: Ray = None,
) -> None:
    """Go on with a run that was stopped, simulated, central or a fleet's, to the same model. RUN is its folder."""
    from fedprune.runs.folder import RunFolder
    from fedprune.runs.run import train as central

    if cli_fleet.of_fleet(run):
        cli_fleet.go_on(run, data_dir)
        return
    experiment = RunFolder(run).experiment()
    given = _Given(str(run / "experiment.json"), data_dir, resume=True)
    # one with privacy was simulated, since a central run has none
    alone = experiment.data.central and not experiment.privacy.epsilon
    summary(console, _shown(experiment, run, given, central if alone else _simulation(engine, workers, ray)), run)


class _Given(NamedTuple):
    """What the command line says of a run, besides its experiment and its folder."""

    source: str
    data_dir: Path | None
    resume: bool = False
    fresh: bool = False


def _simulation(engine: Engine, workers: int | None, address: str | None) -> Callable[..., dict[str, Any]]:
    from fedprune.federated.link import engines
    from fedprune.runs.run import simulate

    if address and engine is not Engine.ray:
        raise ExperimentError(f"--ray {address}: is for --engine ray")
    on_ray = functools.partial(engines.ray, address=address or "")
    over = on_ray if engine is Engine.ray else functools.partial(engines.local, workers=workers)
    return functools.partial(simulate, engine=over)


def _shown(experiment: Experiment, folder: Path, given: _Given, run: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A run's result, with its progress on the screen meanwhile."""
    with Display(console, experiment, folder) as display:
        try:
            return run(
                experiment, folder, source=given.source, data_dir=_text(given.data_dir), resume=given.resume,
                fresh=given.fresh, progress=display,
            )  # fmt: skip
        except KeyboardInterrupt:
            display.stop()
            errors.print(f"\nStopped. What is complete lies in {folder}; go on with:\n  {again()}", markup=False)
            raise typer.Exit(130) from None


def _text(path: Path | None) -> str | None:
    return str(path) if path else None


def again() -> str:
    """The command to go on with after this one."""
    words = [word for word in sys.argv[1:] if word not in ("--resume", "--fresh")]
    return shlex.join(["fedprune", *words, *(["--resume"] if words[:1] != ["resume"] else [])])
