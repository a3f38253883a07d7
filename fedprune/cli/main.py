"""The command line: parse, call, print."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedprune import own_code
from fedprune.cli import compare as cli_compare
from fedprune.cli import data as cli_data
from fedprune.cli import deploy as cli_deploy
from fedprune.cli import experiments
from fedprune.cli import fleet as cli_fleet
from fedprune.cli import methods as cli_methods
from fedprune.cli import server as cli_server
from fedprune.cli.bench import Peer, Place
from fedprune.cli.experiments import DataDir, Run, again
from fedprune.experiment import Experiment, ExperimentError, load

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Federated pruning: train on private data over unequal devices, end in models small enough to run on them.",
)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)
_NO_TORCH = "torch is not installed here: pip install 'fedprune[device-torch]', or of a server 'fedprune[simulation]'"
experiments.mount(app)
app.command()(cli_compare.compare)
app.command()(cli_methods.methods)


class Target(StrEnum):
    """What an export is for."""

    litert = "litert"
    microcontroller = "microcontroller"
    tensorboard = "tensorboard"


class Optimise(StrEnum):
    """What C sources are made for."""

    size = "size"
    speed = "speed"


def _of_fleet(file: Path, changes: list[str], seed: int | None = None) -> Experiment:
    experiment = load(file, changes, seed=seed)
    if not experiment.fleet:
        raise ExperimentError(f"{file}: fleet: missing; describe tiers, e.g. [fleet.pi] with devices = 4")
    return experiment


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="The experiment: a TOML file with a fleet.", metavar="FILE")],
    set: Annotated[
        list[str], typer.Option(help="Change a key, e.g. --set fleet.pi.devices=2.", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.", min=0)] = None,
    data_dir: DataDir = None,
) -> None:
    """What each tier of a fleet will train and why, before anything runs. FILE is the experiment, in TOML."""
    from fedprune.budgets import measure
    from fedprune.cli.plan import show_plan
    from fedprune.runs.setting import prepare

    experiment = _of_fleet(file, set, seed)
    with console.status("tracing the model"):
        setting = prepare(experiment, str(file), str(data_dir) if data_dir else None)
        made = setting.plan
        speed = measure().macs_per_second
    assert made is not None
    show_plan(console, experiment, made, speed)
    for text in setting.notices:
        console.print(text, style="yellow", markup=False, soft_wrap=True)


@app.command()
def recommend(
    file: Annotated[Path, typer.Argument(help="The experiment: a TOML file with a fleet.", metavar="FILE")],
    set: Annotated[
        list[str], typer.Option(help="Change a key, e.g. --set fleet.pi.devices=2.", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    data_dir: DataDir = None,
) -> None:
    """Which methods a fleet can train within its budgets, and why the others cannot. FILE is in TOML."""
    from fedprune.cli.plan import show_advice
    from fedprune.runs.recommending import recommended

    experiment = _of_fleet(file, set)
    given = str(data_dir) if data_dir else None
    with console.status("planning") as status:
        found = list(recommended(experiment, str(file), given, lambda name: status.update(f"planning {name}")))
    show_advice(console, experiment, found)


@app.command()
def profile(
    json: Annotated[bool, typer.Option("--json", help="One line of JSON, for programs.")] = False,
) -> None:
    """Memory, cores and measured speed of this device, as the server will see them."""
    from fedprune.budgets import measure
    from fedprune.cli.plan import show_profile

    found = measure()
    if json:
        import json as _json

        print(_json.dumps(found._asdict()))
    else:
        show_profile(console, found)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or somebody's .tflite.", metavar="RUN")],
    to: Annotated[
        Target, typer.Option(help="litert: .tflite for phones and the Pi. microcontroller: C. tensorboard: its rounds.")
    ],
    optimise: Annotated[Optimise, typer.Option(help="The C sources for flash or for instructions.")] = Optimise.size,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what a .tflite becomes, or for TensorBoard.", show_default="NAME_microcontroller"
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Examples for a .tflite of floats: an .npz, or a folder of .npy files.", metavar="DATA"),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a run's model again for a kind of device. RUN is its folder, such as runs/digits, or any .tflite."""
    from fedprune.cli.export import export_file, export_run

    if to is Target.tensorboard:
        from fedprune.cli.watch import export_events

        export_events(console, run, out)
    elif run.is_file():
        export_file(console, run, to is Target.microcontroller, optimise is Optimise.speed, out, calibrate)
    elif calibrate is not None:
        raise ExperimentError(f"{run}: is no .tflite file; --calibrate is for one of floats")
    else:
        export_run(console, run, to is Target.microcontroller, optimise is Optimise.speed, data_dir)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .tflite file, or the folder of a run.", metavar="FILE")],
) -> None:
    """Operators, bytes by layer and encoding, zeros, multiply-adds and memory of a model. FILE is a .tflite."""
    from fedprune.cli.bench import WRONG, models, why
    from fedprune.cli.inspect import show_inspection, show_noise
    from fedprune.export.inspection.file import inspect as look

    name, content = next(iter(models(file).items()))
    try:
        show_inspection(console, look(content, name))
    except WRONG as error:
        raise ExperimentError(f"{file}: {why(error)}") from error
    if file.is_dir():
        show_noise(console, file)


@app.command()
def bench(
    file: Annotated[Path, typer.Argument(help="A .tflite file, or the folder of a run.", metavar="FILE")],
    on: Annotated[Place, typer.Option(help="This machine, or one that is emulated here.")] = Place.host,
    against: Annotated[
        Peer | None, typer.Option(help="Side by side with TensorFlow Lite Micro, bit for bit; on a chip.")
    ] = None,
) -> None:
    """Flash, memory and instructions of a model on a chip, or its latency on this machine. FILE is a .tflite."""
    from fedprune.cli.bench import bench as measure

    measure(console, file, on, against)


@app.command()
def report(run: Run) -> None:
    """Draw a run's report again. RUN is its folder, such as runs/digits."""
    from fedprune.runs.folder import RunFolder
    from fedprune.runs.outcome import redraw

    console.print(str(redraw(run)), markup=False, soft_wrap=True)
    if damaged := RunFolder(run).damaged_rows():
        console.print(f"{run}/metrics.jsonl: {damaged} damaged lines are left out", markup=False, soft_wrap=True)


@app.command()
def watch(
    run: Run,
    port: Annotated[int, typer.Option(help="Port of the page on this machine; 0 is any free one.", min=0)] = 8321,
) -> None:
    """Show a run while it goes on, in a browser on this machine. RUN is its folder, such as runs/digits."""
    from fedprune.cli.watch import watch as serve

    serve(console, run, port)


cli_server.mount(app)
cli_fleet.mount(app)
cli_deploy.mount(app)
cli_data.mount(app)


def main() -> None:
    """Run the command line; what a user can mend is one line on standard error, and exit code 2."""
    from fedprune.federated.rounds.asking import Diverged, RunStopped

    try:
        app()
    except ExperimentError as error:
        errors.print(str(error), markup=False)
        sys.exit(2)
    except OSError as error:
        errors.print(f"{error.filename}: {error.strerror}" if error.filename else str(error), markup=False)
        sys.exit(2)
    except Diverged as error:  # to go on with it would be to diverge again
        errors.print(str(error), markup=False)
        sys.exit(2)
    except RunStopped as error:
        errors.print(f"{error}\nWhat is complete is saved; go on with:\n  {again()}", markup=False)
        sys.exit(1)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            errors.print(_NO_TORCH, markup=False)
            sys.exit(2)
        if not own_code.place(error):
            raise
        errors.print(own_code.raised(error), markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
