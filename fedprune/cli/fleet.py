"""Commands for a fleet of real devices: join, run, status. Those of its server are in server."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedprune.experiment import ExperimentError, load, toml_files

console = Console(highlight=False)
FleetFolder = Annotated[Path, typer.Argument(help="Folder of a fleet.", metavar="FLEET")]


def mount(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    for command in (join, run, status):
        app.command()(command)


def join(
    file: Annotated[Path, typer.Argument(help="The file that enrol wrote.", metavar="NAME.join")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of this device's data sets.", envvar="FEDPRUNE_DATA_DIR")
    ] = None,
    install_service: Annotated[
        bool, typer.Option("--install-service", help="Write a systemd unit instead, and say how to enable it.")
    ] = False,
) -> None:
    """On a device: take part in a fleet until Ctrl-C. NAME.join is what the server's enrol wrote."""
    from fedprune.deployment.device import join as joining
    from fedprune.deployment.devices import read_join

    read = read_join(file)
    config = joining.node_config(read, data)
    folder = joining.unpack(read, file)
    if install_service:
        unit, lines = joining.install_service(read, folder, data)
        _say("\n".join([f"{unit}: written. Enable it, also without a login, with:", *(f"  {line}" for line in lines)]))
        return
    raise typer.Exit(joining.serve(read, folder, config, _log))


def run(
    file: Annotated[Path, typer.Argument(help="The experiment: a TOML file.", metavar="FILE")],
    fleet: Annotated[Path, typer.Option(help="Folder of the fleet.")],
    set: Annotated[
        list[str], typer.Option(help="Change a key, e.g. --set training.epochs=2.", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.", min=0)] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="The server's folder of data sets.", envvar="FEDPRUNE_DATA_DIR")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, even where an unfinished run lies.")] = False,
) -> None:
    """Run an experiment on a fleet's devices. FILE is the experiment, in TOML."""
    from fedprune.cli import device_names
    from fedprune.cli.ended import summary
    from fedprune.cli.progress import Display
    from fedprune.deployment import runs, server_data
    from fedprune.deployment.fleet_folder import FleetError, open_fleet
    from fedprune.runs.folder import RunFolder

    found = open_fleet(fleet)
    experiment = runs.for_all(asked := load(file, set, seed=seed), found)
    if experiment != asked:
        _say(f"{file}: data.devices = {experiment.data.devices}, as many as are enrolled; people are shared among them")
    runs.serving(found)
    server_data.there(experiment, str(file), data_dir)
    out = runs.folder(found, experiment)
    number = runs.submit(found, experiment, str(file), data_dir=data_dir, resume=resume, fresh=fresh)
    try:
        names = device_names.of_fleet(found)
        with Display(console, experiment, out, names) as display, _left_alone(found.path, number, out, display.stop):
            code, why = runs.follow(found, number, out, display)
    except runs.ServerGone as gone:
        _say(f"{gone}, and go on with: fedprune resume {shlex.quote(str(out))}")
        raise typer.Exit(1) from None
    if code == 2:
        raise FleetError(why)
    if code:
        _say(f"The run failed: {why}\nWhat is done lies in {out}; go on with:")
        _say(f"  fedprune resume {shlex.quote(str(out))}")
        raise typer.Exit(code)
    summary(console, RunFolder(out).read_result(), out)


def of_fleet(run: Path) -> bool:
    """Whether a folder is that of a fleet's run, FLEET/runs/NAME."""
    return (run / "run_config.toml").exists() and (run.absolute().parents[1] / "config.toml").exists()


def go_on(folder: Path, data_dir: Path | None) -> None:
    """Go on with a fleet's run that was stopped, with the data that it was given."""
    file = folder / "run_config.toml"
    try:
        given = toml_files.read(file).get("data-dir")
    except (OSError, toml_files.TomlError) as error:
        raise ExperimentError(f"{file}: damaged ({error}); give the experiment again to fedprune run") from error
    data = data_dir or (Path(given) if isinstance(given, str) and given else None)
    run(folder / "experiment.toml", folder.absolute().parents[1], data_dir=data, resume=True)


@contextmanager
def _left_alone(fleet: Path, number: str, out: Path, stop: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        stop()
        _say(f"\nNo longer watching; the run goes on. To stop it: FLWR_HOME={fleet}/flwr flwr stop {number} fleet")
        _say(f"To see it: fedprune watch {shlex.quote(str(out))}")
        raise typer.Exit(130) from None


def status(fleet: FleetFolder) -> None:
    """Devices and runs of a fleet. FLEET is its folder."""
    from fedprune.cli.progress import mib
    from fedprune.deployment.fleet_folder import open_fleet
    from fedprune.deployment.state import look
    from fedprune.deployment.tables import devices, runs

    found = open_fleet(fleet)
    state = look(found)
    _say(f"{found.path.name} at {found.address}: {'the server runs' if state.serving else 'no server runs here'}")
    console.print(devices(state, mib))
    if state.runs:
        console.print(runs(state))


_log = functools.partial(print, flush=True)
_say = functools.partial(console.print, markup=False, soft_wrap=True)
