"""Claims beyond all bounds: messages of a few bytes that stand for gigabytes, and files nested or long without end."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedprune.deployment import devices, fleet_folder
from fedprune.deployment.device import deploy
from fedprune.deployment.device.app import device_app
from fedprune.experiment import load, to_json
from fedprune.federated.link.client import ROUTES
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.wire.reading import varint
from simulations.benchmarks.soak.outcome import FAILED, HELD, Failed, Hazard, Outcome
from simulations.benchmarks.soak.stage import CLI, DIGITS, ROOT, last_line

_MOST_MIB, _MOST_S = 64, 5.0
"""Of one message: what a device may take to refuse it."""
_ROOM = 2**29  # of a device's address space, beyond what it has before the first message
_CLAIMS: Mapping[str, bytes] = {
    "tensors": b"\1\1\1w\x1a\1" + varint(2**29) + b"\2\1\0",  # one of 2²⁹ zeros, 14 bytes
    "masks": b"\1\1\1w\0\1" + varint(2**31) + b"\1\1",  # one that keeps 2³¹ positions
}
_ASKING: Mapping[str, dict[str, Any]] = {
    "train": {"round": 1, "learning_rate": 0.1},
    "query.top_gradients": {"round": 1, "counts": {"w": 1}},
    "query.bn_statistics": {"candidates": {"0": {"w": 1}}},
    "query.losses": {"candidates": {"0": {"w": 1}}},
    "query.ranges": {"graph": {"input": "x", "outputs": [], "operations": [], "shapes": {"x": [1, 2]}}},
    "query.deploy": {"sha256": "0", "run": "r", "tier": ""},
}
_DEEP = 50_000


class _Told(NamedTuple):
    """How a device took a message."""

    what: str
    reason: str
    """Empty where it did what it was asked."""
    mib: float
    seconds: float


def messages(folder: Path) -> Outcome:
    """Every route of a real device's app, in a process with half a GiB to spare, asked with claims of gigabytes."""
    answer = folder / "answer.json"
    child = multiprocessing.get_context("spawn").Process(target=_device, args=(answer,))
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
        raise Failed("a device is at work on a message of a few bytes after a minute")
    if child.exitcode or not answer.exists():
        raise Failed(f"a message of a few bytes ended the device: exit code {child.exitcode}")
    told = [_Told(*each) for each in json.loads(answer.read_text())]
    wrong = [one for one in told if not _refused(one)]
    mib, seconds = max(one.mib for one in told), max(one.seconds for one in told)
    figures = {"claimed_gigabytes_mib": (mib, "MiB"), "claimed_gigabytes_s": (seconds, "s")}
    happened = f"{len(told)} messages of at most 16 bytes of tensors, each claiming 2 GiB"
    if wrong:
        lost = "; ".join(
            f"{one.what}: {one.mib:.0f} MiB, {one.seconds:.1f} s, {one.reason[:80]!r}" for one in wrong[:3]
        )
        return Outcome(happened, lost, "-", FAILED, figures)
    lost = f"nothing: at most {mib:.0f} MiB and {seconds:.2f} s a message"
    return Outcome(happened, lost, f"the device's reason, e.g. {told[-1].reason[:100]}", HELD, figures)


def _refused(one: _Told) -> bool:
    return "WireError" in one.reason and one.mib < _MOST_MIB and one.seconds < _MOST_S


def _device(answer: Path) -> None:
    experiment = to_json(load(Path(DIGITS)))
    told = []
    with LocalGrid(device_app, 10) as grid:
        _say(grid, "query.profile", _records({"experiment": experiment}, {}))  # its data and library are loaded
        _say(grid, "evaluate", _records({"experiment": experiment}, {}))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM, used + _ROOM))
        for route in (*ROUTES, deploy.ROUTE):
            values = {"experiment": experiment, **_ASKING.get(route, {})}
            for kind, claim in _CLAIMS.items():
                before, started = _peak_kib(), time.perf_counter()
                reason = _say(grid, route, _records(values, {kind: claim}))
                seconds = time.perf_counter() - started
                told.append(_Told(f"{route}, {kind}", reason, (_peak_kib() - before) / 1024, seconds))
    answer.write_text(json.dumps(told))


def _records(values: Mapping[str, Any], blobs: Mapping[str, bytes]) -> RecordDict:
    arrays = {
        name: Array(dtype="uint8", shape=(len(data),), stype="fedprune.wire", data=data) for name, data in blobs.items()
    }
    json_ = ConfigRecord({"json": msgspec.json.encode(values)})
    return RecordDict({"fedprune.tensors": ArrayRecord(arrays), "fedprune.values": json_})


def _say(grid: LocalGrid, route: str, content: RecordDict) -> str:
    (reply,) = grid.send_and_receive([Message(content, 1000, route, group_id="1")])
    return last_line(reply.error.reason) if reply.has_error() else ""


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class _Ended(NamedTuple):
    """A command that was given a hostile file."""

    words: str
    code: int
    said: str
    mib: float


def files(folder: Path) -> Outcome:
    """Hostile experiments, join files and settings, given to the real command line."""
    good, fleet = Path(DIGITS).read_text(), fleet_folder.create(folder / "fleet", ["localhost"])
    _, join = devices.enrol(fleet, "kitchen")
    hostile = {
        "nested.toml": "a = " + "[" * _DEEP,
        "tables.toml": good + "a = " + "{a=" * _DEEP,
        "parts.toml": ".".join("a" * _DEEP) + " = 1\n" + good,
        "digits.toml": good.replace("rounds = ", "rounds = " + "9" * 5000 + " # "),
        "long.toml": "#" * 2**21,
        "nul.toml": good + "\0",
        "portless.join": join.read_text().replace(fleet.address, "localhost"),
        "nan.join": join.read_text() + "memory_mb = nan\n",
        "nested.join": "name = " + "[" * _DEEP,
    }
    for name, text in hostile.items():
        (folder / name).write_text(text)
    (fleet.path / "config.toml").write_text("hosts = " + "[" * _DEEP)
    os.mkfifo(folder / "pipe")
    commands = [
        *(["simulate", name] for name in hostile if name.endswith(".toml")),
        *(["join", name] for name in hostile if name.endswith(".join")),
        ["plan", "/dev/zero"], ["simulate", "pipe"], ["simulate", "."], ["server", "start", "fleet"],
        ["run", DIGITS, "--fleet", "fleet"], ["simulate", DIGITS, "--set", "name=\udcff"],
    ]  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda words: _command(words, folder), commands))
    wrong = [one for one in ended if one.code != 2 or one.said.count("\n") != 1 or "Traceback" in one.said]
    mib = max(one.mib for one in ended)
    figures = {"hostile_files_mib": (mib, "MiB")}
    happened = f"{len(ended)} commands were given files nested, long or odd without end"
    if wrong or list(folder.glob("runs/*")):
        lost = "; ".join(f"{one.words}: exit code {one.code}, {last_line(one.said)[:80]}" for one in wrong[:3])
        return Outcome(happened, lost or "something was written", "-", FAILED, figures)
    seen = f"a line each, such as {last_line(ended[0].said)[:100]}"
    return Outcome(happened, f"nothing: exit code 2, at most {mib:.0f} MiB", seen, HELD, figures)


def _command(words: Sequence[str], folder: Path) -> _Ended:
    """A command's end; one that takes more than half a minute is killed, and has failed."""
    with (folder / f"{abs(hash(tuple(words)))}.said").open("w+") as said:
        process = subprocess.Popen(
            ["timeout", "-s", "KILL", "30", *CLI, *words], cwd=folder, stdin=subprocess.DEVNULL,
            stdout=said, stderr=said, env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        return _Ended(" ".join(words[:2]), process.returncode, said.read(), used.ru_maxrss / 1024)


HAZARDS = {
    "claimed_gigabytes": Hazard("messages of a few bytes that claim gigabytes", messages, 120, messages),
    "hostile_files": Hazard("files nested, long or odd without end", files, 300, files),
}
