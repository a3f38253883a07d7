"""What a simulation shows while it runs: a bar, and a line a round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedprune.cli.device_names import NUMBERS, Names
from fedprune.experiment import Experiment
from fedprune.federated.rounds.naming import ordered
from fedprune.runs.report.attendance import Said, away, faults, named, strangers
from fedprune.tasks import ACCURACY, Metric, metric_in, value_in

_AFTER = f"{'loss':>8} {'density':>8} {'KB up':>10} {'KB down':>10} {'seconds':>8}"
_What = TypeVar("_What")


class Display:
    """Takes each line of metrics as it comes; use it as a context."""

    def __init__(self, console: Console, experiment: Experiment, folder: Path, names: Names = NUMBERS) -> None:
        """Nothing is shown before the first line."""
        self._console, self._rounds, self._folder, self._name = console, experiment.rounds, folder, experiment.name
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("preparing", total=None)
        self._round: dict[str, Any] = {}
        self._headed, self._metric = False, ACCURACY
        self._names = names
        self._away: Mapping[Any, Said] = {}
        self._strangers: set[tuple[str, str]] = set()
        self._seconds, self._device_seconds = 0.0, 0.0

    def __enter__(self) -> Display:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self.stop()

    def stop(self) -> None:
        """Remove the bar, leave the lines, also of a round that was cut short."""
        self._progress.stop()
        if self._round:
            self._print()

    def __call__(self, row: Mapping[str, Any]) -> None:
        """A line of metrics, an epoch of pretraining, or the phase export."""
        if "epoch" in row:
            text = f"pretraining on public examples, {metric_in(row).text(value_in(row), 0)}"
            self._progress.update(self._task, description=text, completed=row["epoch"], total=row["epochs"])
            return
        if "notice" in row:
            self._console.print(f"       [yellow]{escape(row['notice'])}[/yellow]", soft_wrap=True)
            return
        at = _CHECK if row["phase"] == _CHECK else row.get("round")
        if self._round and at != self._round["round"]:
            self._print()
        if row["phase"] == "export":
            if self._device_seconds:
                said = f"{self._device_seconds:,.1f} of {self._seconds:,.1f} s are the slowest device's in each phase"
                self._console.print(f"       {said}, the rest is the link's and the server's", soft_wrap=True)
            self._progress.update(self._task, description="exporting and checking", total=None)
            return
        self._metric = metric_in(row) if row.get("metric") else self._metric
        if not self._round:
            self._round = {
                "round": at,
                "up": 0,
                "down": 0,
                "seconds": 0.0,
                "phases": [],
                "said": [],
                "parts": {},
                "devices": 0,
            }
        line = self._round
        line["up"] += row.get("bytes_up") or 0
        line["down"] += row.get("bytes_down") or 0
        line["seconds"] += row.get("seconds") or 0.0
        line["phases"].append(row["phase"])
        line["devices"] = max(line["devices"], row.get("devices") or 0)
        line.setdefault("density", row["density"])
        line["said"] += [*_said(row, self._names), *self._news(row)]
        if row.get("device_seconds") is not None:
            self._device_seconds += row["device_seconds"]
            self._seconds += row.get("seconds") or 0.0
        if row["phase"] == "evaluate":
            line["parts"][row.get("part", "")] = value_in(row)
            if len(line["parts"]) == 1:
                line["value"], line["loss"], line["density"] = value_in(row), row["loss"], row["density"]
        if at != _CHECK:
            self._progress.update(self._task, description="rounds", completed=row["round"], total=self._rounds)

    def _news(self, row: Mapping[str, Any]) -> list[str]:
        """What lines repeat while it lasts, said when it begins and ends: who is not asked, and who is nobody."""
        there = away(row)
        if there is None:
            return []
        names, unknown = self._names, strangers(row)
        # one that is connected and cannot say who it is counts as away: its node's error says why
        failing = {names.nodes[node] for node in unknown if node in names.nodes}
        now = {device: said for device, said in there.items() if names.of(device) not in failing}
        before, self._away = self._away, now
        gone = _grouped({device: said for device, said in now.items() if before.get(device) != said})
        back = _grouped({device: Said(said.word) for device, said in before.items() if device not in now})
        new = [found for found in unknown.items() if found not in self._strangers]
        self._strangers |= {*new}
        return [
            *(f"{names.all_of(devices)}: {_AWAY[said.word]}{said.why}" for said, devices in gone.items()),
            *(f"{names.all_of(devices)}: {_BACK[said.word]}" for said, devices in back.items()),
            *(f"{names.nodes[node]} cannot take part: {why}" for node, why in new if node in names.nodes),
            *(f"node {node} is none of the devices: {why}" for node, why in new if node not in names.nodes),
        ]

    def _print(self) -> None:
        line, self._round = self._round, {}
        metric, wide = self._metric, max(9, len(self._metric.name))
        if not self._headed:
            self._headed = True
            head = f"{'round':>6} {escape(metric.name):>{wide}} {_AFTER}"
            self._console.print(f"{self._name} -> {escape(str(self._folder))}\n[bold]{head}[/bold]", soft_wrap=True)
        value = "" if line.get("value") is None else metric.text(line["value"])
        loss = "" if line.get("loss") is None else f"{line['loss']:.4f}"
        self._console.print(
            f"{line['round']:>6} {value:>{wide}} {loss:>8} {line['density']:>8.4f} {line['up'] / 1e3:>10,.1f} "
            f"{line['down'] / 1e3:>10,.1f} {line['seconds']:>8.1f}  {_remark(line, metric)}",
            soft_wrap=True,
        )
        for said in line["said"]:
            self._console.print(f"       [yellow]{escape(said)}[/yellow]", soft_wrap=True)


_CHECK = "check"  # the phase after the last round, in which devices run the exported files
_AWAY = {"aside": "failed repeatedly, set aside ", "absent": "absent, "}
_BACK = {"aside": "no longer set aside", "absent": "there again"}


def _said(row: Mapping[str, Any], names: Names) -> list[str]:
    """What the operator should know of a phase: faults, refusals, and who trains something else from now on."""
    times = row.get("retried") or 0
    again = "again" if times == 1 else f"again {times} times"
    failed, jobs = _grouped(faults(row)), _grouped(named(row.get("replanned")))
    grown = _grouped(named(row.get("grown")))
    return [
        *([f"{row['phase']}: diverged: {row['diverged']}"] if row.get("diverged") else []),
        *([f"{row['phase']}: those that failed were asked {again}"] if times else []),
        *(f"{names.all_of(devices)}, {row['phase']}: {why}" for why, devices in failed.items()),
        *(f"{names.all_of(devices)}, {row['phase']}: {why}; left out" for why, devices in grown.items()),
        *(
            f"{names.of(_device(key))}, {row['phase']}: needs {mib(said['refused'])}, has {mib(said['memory_bytes'])}; "
            "left out"
            for key, said in (row.get("refused") or {}).items()
        ),
        *(
            f"{names.all_of(devices)} train{'s' * (len(devices) == 1)} from now on: {job}"
            for job, devices in jobs.items()
        ),
    ]


def _grouped(said: Mapping[Any, _What]) -> dict[_What, list[int | str]]:
    """The devices of which the same is said, by what is said."""
    found: dict[_What, list[int | str]] = {}
    for device in ordered(said):
        found.setdefault(said[device], []).append(device)
    return found


def _device(key: str) -> int | str:
    """A device as JSON has it: a number is a text there."""
    return int(key) if key.isdecimal() else key


def mib(size: float) -> str:
    """Bytes in MiB, to a tenth below ten."""
    return f"{size / 2**20:,.1f} MiB" if size < 10 * 2**20 else f"{size / 2**20:,.0f} MiB"


def _remark(line: Mapping[str, Any], metric: Metric) -> str:
    """What else happened in a round, besides training and testing; and how smaller parts do."""
    said = []
    if line["round"] == _CHECK:
        said.append(f"the exported files, on {line['devices']} device{'s' * (line['devices'] != 1)}")
    if "losses" in line["phases"]:
        said.append("a candidate is chosen")
    if "top_gradients" in line["phases"]:
        said.append("masks change")
    said += [f"{part} {metric.text(value)}" for part, value in list(line["parts"].items())[1:] if value is not None]
    return ", ".join(said)
