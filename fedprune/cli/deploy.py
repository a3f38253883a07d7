"""The command that brings a run's models to a fleet's devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

console = Console(highlight=False)


def mount(app: typer.Typer) -> None:
    """Add this command to ``app``."""
    app.command()(deploy)


def deploy(
    run: Annotated[Path, typer.Argument(help="Folder of a run that has ended.", metavar="RUN")],
    fleet: Annotated[Path, typer.Option(help="Folder of the fleet.")],
    device: Annotated[
        list[str], typer.Option(help="Only this device; may be repeated.", metavar="NAME", show_default="all")
    ] = [],  # noqa: B006
) -> None:
    """Bring each device the model of its tier; one that is worse there is not used. RUN is a run's folder."""
    from fedprune.cli.progress import mib
    from fedprune.deployment import deploying, runs, tables
    from fedprune.deployment.fleet_files import delivered
    from fedprune.deployment.fleet_folder import FleetError, open_fleet

    found = open_fleet(fleet)
    out, to = deploying.folder(found), deploying.targets(found, run, device)
    number = deploying.submit(found, run, to)

    def pass_over(row: Mapping[str, Any]) -> None:
        """Its one line of metrics is said better by the table."""

    try:
        with console.status(f"{run} to {', '.join(target.name for target in to)}"):
            code, why = runs.follow(found, number, out, pass_over, deploying.ROWS)
    except KeyboardInterrupt:
        home = found.path / "flwr"
        _say(f"No longer watching; it goes on. To stop it: FLWR_HOME={home} flwr stop {number} fleet")
        raise typer.Exit(130) from None
    except runs.ServerGone as gone:
        _say(f"{gone}, and deploy once more. Devices keep what they had.")
        raise typer.Exit(1) from None
    if code == 2:
        raise FleetError(why)
    if code:
        _say(f"The deployment failed: {why}\nDevices keep what they had; deploy once more.")
        raise typer.Exit(code)
    rows = delivered(out / deploying.ROWS)
    console.print(tables.deployed(rows, mib))
    _say(str(run / deploying.DEPLOYED))
    if missing := [row["name"] for row in rows if not row["answered"]]:
        _say(f"Without an answer: {', '.join(missing)}. Deploy again when they are there.")
        raise typer.Exit(1)


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
