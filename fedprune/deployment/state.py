"""What is known of a fleet: its devices and its runs, from the SuperLink and from the runs' folders."""

from __future__ import annotations

from typing import Any, NamedTuple

from fedprune.deployment import deploying, flower
from fedprune.deployment.devices import enrolled
from fedprune.deployment.fleet_files import delivered, seen
from fedprune.deployment.fleet_folder import LINK, Fleet
from fedprune.deployment.runs import NUMBER, list_runs


class DeviceState(NamedTuple):
    """One device of a fleet."""

    name: str
    partition: int
    tier: str
    registered: bool
    online: bool
    last_seen: str
    """UTC; "now" while it is online, "" where the SuperLink never heard of it."""
    rounds: int
    """Rounds it answered in, over all runs whose folders are there."""
    memory_bytes: int
    """What its process may use, as it said last; 0 where it said nothing yet."""
    error: str
    """The last one of its latest run."""
    lag_s: float = 0.0
    """Until its last reply was there, since it was asked; 0 where none was."""
    trainer: str = ""
    """What it trained with last, and why where that is torch; empty where it has not trained yet."""
    model: str = ""
    """The one in use there, as it said when it last got one: run, SHA-256, accuracy on its own test part."""


class FleetState(NamedTuple):
    """A fleet's devices and runs."""

    serving: bool
    devices: list[DeviceState]
    runs: list[dict[str, Any]]
    """Flower's account of each, the newest first, and ``results``: the folder that it wrote last."""


def look(fleet: Fleet) -> FleetState:
    """The state of a fleet now. Without a server, what the folder says."""
    serving = fleet.listens()
    nodes: dict[str, dict[str, Any]] = {}
    if serving:
        listed = flower.ask(fleet, ["flwr", "supernode", "list", LINK])["nodes"]
        nodes = {node["node-id"]: node for node in listed}
    told = _seen(fleet)
    deployed = {row["name"]: row for row in delivered(fleet.path / deploying.DEPLOYED)}
    devices = []
    for device in enrolled(fleet):
        node = nodes.get(device.node or "", {})
        mine = [table[device.node] for table in told if device.node in table]
        online = node.get("status") == "online"
        times = [entry["last_reply"] for entry in mine if "last_reply" in entry]
        memory = [entry["memory_bytes"] for entry in mine if "memory_bytes" in entry]
        devices.append(
            DeviceState(
                device.name,
                device.partition,
                device.tier or "",
                registered=_known(nodes.get(device.node or "")) if serving else device.node is not None,
                online=online,
                last_seen="now" if online else _when(node, times),
                rounds=sum(entry.get("rounds", 0) for entry in mine),
                memory_bytes=memory[-1] if memory else 0,
                error=mine[-1].get("error", "") if mine else "",
                lag_s=next((entry["lag_s"] for entry in reversed(mine) if "lag_s" in entry), 0.0),
                trainer=_trainer(mine),
                model=deploying.model_in_use(_its_own(deployed.get(device.name), device.node)),
            )
        )
    files = [*fleet.runs.glob(f"*/{NUMBER}"), *deploying.folder(fleet).glob(NUMBER)]
    names = {file.read_text(errors="replace"): file.parent.name for file in files}
    runs = [{**run, "results": names.get(run["run-id"], "")} for run in list_runs(fleet)] if serving else []
    return FleetState(serving, devices, runs)


def _trainer(seen: list[dict[str, Any]]) -> str:
    trained = [entry for entry in seen if entry.get("trainer")]
    if not trained or trained[-1]["trainer"] == "native":
        return "native" if trained else ""
    if not trained[-1].get("compiled", True):
        return "torch, as its compiled trainer is not installed"
    return "torch, as the compiled trainer does not cover the run's model or method"


def _known(node: dict[str, Any] | None) -> bool:
    return node is not None and node.get("status") != "unregistered"


def _its_own(row: dict[str, Any] | None, node: str | None) -> dict[str, Any] | None:
    """The row, unless it is of a device that had this name before."""
    return None if row is None or row.get("node", node) != node else row


def _seen(fleet: Fleet) -> list[dict[str, dict[str, Any]]]:
    """devices.json of every run, the oldest first; one that is damaged is left out."""
    return [seen(file) for file in sorted(fleet.runs.glob("*/devices.json"), key=lambda file: file.stat().st_mtime)]


def _when(node: dict[str, Any], replies: list[str]) -> str:
    went = str(node.get("offline-at", "N/A"))
    return went if went != "N/A" else max(replies, default="")
