"""Devices of a fleet: enrolled by the server's owner, known to its SuperLink, and the file that a device joins with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from fedprune.deployment import certificates, flower
from fedprune.deployment.fleet_folder import LINK, Fleet, FleetError, is_host, write_private
from fedprune.experiment import toml_files
from fedprune.experiment.toml_files import TomlError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PORT = re.compile(r"0*[1-9][0-9]{0,4}")
_MOST_MB = 2**40


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server's folder says of a device."""

    name: str
    partition: int
    """Which part of an experiment's data is this device's: its number in a run."""
    memory_mb: float | None = None
    """Most that its process may use, in MiB, where the owner says so; else the device measures what it has."""
    tier: str | None = None
    """Tier that it belongs in, where an experiment has a fleet."""
    node: str | None = None
    """Flower's node id, once the SuperLink knows its key."""


class Join(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a join file says: all that a device needs, and a secret."""

    name: str
    address: str
    partition: int
    ca: str
    key: str
    memory_mb: float | None = None
    tier: str | None = None


def enrolled(fleet: Fleet) -> list[Device]:
    """All devices of a fleet, by partition. FleetError where a file is damaged."""
    found, wrong = _readable(fleet)
    if wrong:
        raise wrong[0]
    return found


def _readable(fleet: Fleet) -> tuple[list[Device], list[FleetError]]:
    found, wrong = [], []
    for file in fleet.devices.glob("*.json"):
        try:
            device = msgspec.json.decode(file.read_bytes(), type=Device)
            if device.name != file.stem or device.partition < 0:  # a name is also that of other files
                raise ValueError("impossible name or partition")
            found.append(device)
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            wrong.append(FleetError(f"{file}: damaged ({error}); remove it and enrol the device again"))
    return sorted(found, key=lambda device: (device.partition, device.name)), wrong


def enrol(
    fleet: Fleet, name: str, *, partition: int | None = None, memory_mb: float | None = None, tier: str | None = None
) -> tuple[Device, Path]:
    """Take a device in: its record and its join file. Without a ``partition`` it gets the first that is free.

    FleetError where the name or the partition is taken, or where a value is impossible; nothing is written then.
    """
    if not _NAME.fullmatch(name):
        raise FleetError(f"{name!r}: no name for a device; use letters, digits, '-' and '_', at most 64")
    others = enrolled(fleet)
    if any(other.name.lower() == name.lower() for other in others):
        raise FleetError(f"{fleet.devices / name}.json: a device of this name is enrolled already; choose another name")
    holders = {other.partition: other.name for other in others}
    if partition is None:
        partition = next(number for number in range(len(others) + 1) if number not in holders)
    if partition < 0:
        raise FleetError(f"--partition {partition}: devices count from 0")
    if partition in holders:
        raise FleetError(f"--partition {partition}: is that of {holders[partition]} already")
    if memory_mb is not None and not 0 < memory_mb < _MOST_MB:
        raise FleetError(f"--memory-mb {memory_mb:g}: expected a number above 0")
    if tier is not None and not _NAME.fullmatch(tier):
        raise FleetError(f"--tier {tier}: no name of a tier; use letters, digits, '-' and '_'")
    pair = certificates.device()
    device = Device(name, partition, memory_mb, tier)
    ca = (fleet.path / "ca.crt").read_text()
    path = fleet.devices / f"{name}.join"
    join = Join(name, fleet.address, partition, ca, pair.private.decode(), memory_mb, tier)
    write_private(path, _to_toml(join).encode())
    (fleet.devices / f"{name}.pub").write_bytes(pair.public)
    _save(fleet, device)
    return device, path


def known(fleet: Fleet) -> set[str]:
    """Node ids that the running SuperLink lets in."""
    nodes = flower.ask(fleet, ["flwr", "supernode", "list", LINK])["nodes"]
    return {node["node-id"] for node in nodes if node["status"] != "unregistered"}


def register(fleet: Fleet, nodes: set[str] | None = None) -> tuple[list[str], dict[str, str]]:
    """Make every enrolled device known to the running SuperLink: the names of those that were not, and, of those that
    it does not take, why.

    ``nodes`` are those of ``known``, where the caller has them.
    """
    nodes = known(fleet) if nodes is None else nodes
    done, wrong = [], {}
    for device in enrolled(fleet):
        if device.node in nodes:
            continue
        try:
            answer = flower.ask(fleet, flower.register(fleet.devices / f"{device.name}.pub", device.name))
        except FleetError as error:
            wrong[device.name] = str(error)
            continue
        _save(fleet, msgspec.structs.replace(device, node=str(answer["node-id"])))
        done.append(device.name)
    return done, wrong


def revoke(fleet: Fleet, name: str) -> bool:
    """Take a device out: its key opens nothing any more, its record and its join file are gone, its number is free.

    False where no server runs: the SuperLink still knows the key, until ``expel`` when it starts. FleetError where no
    device of this name is enrolled, or where the server does not do it; nothing is changed then.
    """
    others = {device.name: device for device in enrolled(fleet)}
    if name not in others:
        there = ", ".join(others) or "none"
        raise FleetError(f"{fleet.devices / name}.json: no device of this name is enrolled; there are: {there}")
    serving = fleet.listens()
    if serving and others[name].node in known(fleet):
        _unregister(fleet, str(others[name].node))
    for ending in ("join", "pub", "json"):  # the record last: until it is gone, the command can be given again
        (fleet.devices / f"{name}.{ending}").unlink(missing_ok=True)
    return serving


def expel(fleet: Fleet, nodes: set[str]) -> list[str]:
    """Make the running SuperLink forget those of the ``nodes`` it knows whose devices are enrolled no more; these."""
    strangers = sorted(nodes - {device.node for device in _readable(fleet)[0]})
    for node in strangers:
        _unregister(fleet, node)
    return strangers


def _unregister(fleet: Fleet, node: str) -> None:
    flower.ask(fleet, ["flwr", "supernode", "unregister", node, LINK])


def read_join(path: Path) -> Join:
    """A join file. FleetError where it is none."""
    try:
        join = msgspec.convert(toml_files.read(path), Join)
    except OSError as error:
        raise FleetError(f"{path}: cannot be read ({error.strerror}); give the file that enrol wrote") from error
    except (TomlError, msgspec.MsgspecError) as error:
        raise FleetError(f"{path}: not a join file ({error}); copy the one that enrol wrote once more") from error
    for key, right in _right(join).items():
        if not right:
            raise FleetError(f"{path}: not a join file (impossible {key}); copy the one that enrol wrote once more")
    return join


def _right(join: Join) -> dict[str, bool]:
    host, _, port = join.address.rpartition(":")
    return {
        "name": bool(_NAME.fullmatch(join.name)),
        "address": is_host(host.removeprefix("[").removesuffix("]"))
        and _PORT.fullmatch(port) is not None
        and int(port) < 2**16,
        "partition": 0 <= join.partition < 2**31,
        "ca": join.ca.isascii() and "\0" not in join.ca,
        "key": join.key.isascii() and "\0" not in join.key,
        "memory_mb": join.memory_mb is None or 0 < join.memory_mb < _MOST_MB,
        "tier": join.tier is None or bool(_NAME.fullmatch(join.tier)),
    }


def _save(fleet: Fleet, device: Device) -> None:
    file = fleet.devices / f"{device.name}.json"
    half = file.with_suffix(".half")
    half.write_bytes(msgspec.json.encode(device) + b"\n")
    half.replace(file)


def _to_toml(join: Join) -> str:
    lines = ["# A device's key to its fleet: keep it secret, and delete it where it is no longer needed."]
    for key, value in msgspec.to_builtins(join).items():
        if isinstance(value, str) and "\n" in value:
            lines.append(f"{key} = '''\n{value}'''")
        elif value is not None:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"
