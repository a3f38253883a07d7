"""Commands for the server of a fleet of real devices: init, start, enrol, revoke, renew."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False)
server = typer.Typer(no_args_is_help=True, help="The server of a fleet of real devices.")
FleetFolder = Annotated[Path, typer.Argument(help="Folder of a fleet.", metavar="FLEET")]


def mount(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    app.add_typer(server, name="server")


@server.command()
def init(
    fleet: FleetFolder,
    host: Annotated[
        list[str], typer.Option(help="What devices call this machine: a name or an address.", show_default="its name")
    ] = [],  # noqa: B006
    port: Annotated[int, typer.Option(help="Port of everything.")] = 8000,
    listen: Annotated[
        str, typer.Option(help="Address of this machine to listen at.", show_default="0.0.0.0, all of them")
    ] = "0.0.0.0",
) -> None:
    """Make a fleet's folder: an authority, the server's certificate, settings. FLEET is a new folder."""
    from fedprune.deployment.fleet_folder import create

    made = create(fleet, host, port=port, listen=listen)
    _say(f"{made.path}: a fleet at {made.address}\nNext:\n  fedprune server start {shlex.quote(str(fleet))}")
    _say(f"  fedprune server enrol {shlex.quote(str(fleet))} NAME       # for each device")


@server.command()
def start(
    fleet: FleetFolder,
    print_: Annotated[bool, typer.Option("--print", help="Only print Flower's own commands that do the same.")] = False,
) -> None:
    """Serve a fleet until Ctrl-C: devices, runs, results. FLEET is its folder."""
    from fedprune.deployment import plain
    from fedprune.deployment import server as serving
    from fedprune.deployment.fleet_folder import open_fleet

    found = open_fleet(fleet)
    if print_:
        _say(plain.commands(found))
        return
    raise typer.Exit(serving.start(found, _log))


@server.command()
def enrol(
    fleet: FleetFolder,
    name: Annotated[str, typer.Argument(help="Name of the device: letters, digits, - and _.", metavar="NAME")],
    partition: Annotated[
        int | None, typer.Option(help="Its number in a run.", show_default="the first that is free")
    ] = None,
    memory_mb: Annotated[
        float | None, typer.Option(help="Most MiB that training may use.", show_default="what it measures")
    ] = None,
    tier: Annotated[str | None, typer.Option(help="Tier of an experiment's fleet that it belongs in.")] = None,
) -> None:
    """Take a device in, and write the file that it joins with. FLEET is the folder, NAME the device."""
    from fedprune.deployment import devices
    from fedprune.deployment.fleet_folder import alone, open_fleet

    found = open_fleet(fleet)
    with alone(found):
        device, file = devices.enrol(found, name, partition=partition, memory_mb=memory_mb, tier=tier)
        done, wrong = devices.register(found) if found.listens() else ([], {})
    known = "registered" if device.name in done else "registered when the server starts"
    _say(f"{file}: device {device.partition}, {wrong.get(device.name, known)}")
    _say("The file is the device's key: copy it there over a safe way, e.g. with scp, delete it here, and there run:")
    _say("  pip install 'fedprune[device]'")
    _say(f"  fedprune join {file.name} --data DIR")


@server.command()
def revoke(
    fleet: FleetFolder,
    name: Annotated[str, typer.Argument(help="Name of the device, as it was enrolled.", metavar="NAME")],
) -> None:
    """Take a device out for good: its key no longer lets it in. FLEET is the folder, NAME the device."""
    from fedprune.deployment import devices
    from fedprune.deployment.fleet_folder import open_fleet

    done = devices.revoke(open_fleet(fleet), name)
    _say(f"{name}: taken out{'' if done else '; the server turns it away from its next start on'}")


@server.command()
def renew(
    fleet: FleetFolder,
    host: Annotated[
        list[str], typer.Option(help="What devices call this machine: a name or an address.", show_default="as it was")
    ] = [],  # noqa: B006
) -> None:
    """Give the server a new certificate, which devices trust as the old one. FLEET is the folder."""
    from fedprune.deployment import certificates, fleet_folder

    before = fleet_folder.open_fleet(fleet)
    found = fleet_folder.renew(before, host)
    until = certificates.until((found.path / "server.crt").read_bytes())
    _say(f"{found.path}/server.crt: holds for {', '.join(found.hosts)} until {until:%Y-%m-%d}; restart the server")
    if lost := [name for name in before.hosts if name not in found.hosts]:
        _say(f"Devices that call it {' or '.join(lost)} no longer trust it: enrolled before, they want another address")
        _say("in their NAME.join, or the old name back here.")


_log = functools.partial(print, flush=True)
_say = functools.partial(console.print, markup=False, soft_wrap=True)
