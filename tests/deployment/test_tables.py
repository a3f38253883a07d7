"""A fleet's tables in a terminal of 80 columns."""

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from fedprune.deployment import tables
from fedprune.deployment.state import DeviceState, FleetState


def _shown(what: RenderableType) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80).print(what)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def _device(name: str, **more: Any) -> DeviceState:
    given = {"registered": True, "online": False, "last_seen": "2026-11-22T22:59:43+00:00", "rounds": 120}
    return DeviceState(name, **{"partition": 10, "tier": "", **given, "memory_bytes": 3 * 2**30, "error": "", **more})


_ERROR = "ValueError: the table of this device has no column acceleration_x, and a label that nobody else has"


@pytest.mark.parametrize("tier", ["", "microcontroller"])
def test_no_word_of_a_state_is_broken(tier: str) -> None:
    found = FleetState(
        True,
        [
            _device("kitchen", tier=tier, error=_ERROR, lag_s=12.3, model="digits 1a2b3c4d 98.1 %"),
            _device("living_room_2", tier=tier, online=True, last_seen="now"),
            _device("attic", registered=False, last_seen=""),
        ],
        [],
    )
    shown = _shown(tables.devices(found, lambda size: f"{size / 2**20:,.0f} MiB"))
    assert all(len(line) <= 80 for line in shown)
    text = " ".join(" ".join(shown).split())
    assert "kitchen 10 2026-11-22 22:59 120 12.3 s 3,072 MiB" in text
    assert f"kitchen {tier}" in text
    words = ("living_room_2", "online", "never", "partition", "digits 1a2b3c4d 98.1 %", "the server registers it when")
    assert all(word in text for word in words), text
    assert f"kitchen {_ERROR}" in text
    assert sum("attic" in line for line in shown) == 2  # its line, and that it is not registered


def test_no_word_of_a_runs_line_is_broken() -> None:
    run = {
        "run-id": "11177548425467798092", "results": "digits", "status": "finished:completed",
        "pending-at": "2026-11-22 22:59:43Z", "elapsed": 12345.6, "status-details": "",
    }  # fmt: skip
    lost = {**run, "run-id": "9", "status": "finished:failed", "status-details": "No heartbeat received"}
    shown = _shown(tables.runs(FleetState(True, [], [run, lost])))
    assert "11177548425467798092  digits   completed  2026-11-22 22:59  12346" in shown
    assert shown[-1].split() == ["9", "No", "heartbeat", "received"]
    assert all(len(line) <= 80 for line in shown)


def test_what_became_of_a_model_is_a_line_a_device_and_why_below() -> None:
    row: dict[str, Any] = {
        "name": "kitchen", "tier": "small", "bytes": 129_184, "accuracy_before": 0.9814, "accuracy": 0.9714,
        "latency_ms": {"median": 12.34}, "memory_bytes": 12 * 2**20, "used": False, "answered": True,
        "reason": "it gets 340 of 350 test examples right, the model in use 343 of them",
    }  # fmt: skip
    shown = _shown(tables.deployed([row], lambda size: f"{size / 2**20:,.0f} MiB"))
    assert "kitchen  small  129,184  98.1 %  97.1 %  12.34 ms  12 MiB  no" in shown
    assert "right, the model in use 343 of them" in " ".join(" ".join(shown).split())
