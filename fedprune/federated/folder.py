"""A run's folder: what was asked, how far it came, a line for each phase; written so that nothing half-done is read."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedprune import experiment as _experiment
from fedprune.experiment import Experiment, ExperimentError
from fedprune.federated.state import State, read, save, step_name, write_atomically

_OUTCOME = ("model.npz", "model.tflite", "model_float.tflite", "report.html", "deployed.json", "devices.json")


class RunFolder:
    """``runs/NAME``: experiment.json, checkpoint.fedprune, metrics.jsonl, and what the end adds."""

    def __init__(self, path: Path) -> None:
        """A folder that may not exist yet."""
        self.path = path
        self.checkpoint = path / "checkpoint.fedprune"
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"
        self._asked = path / "experiment.json"

    def begin(self, experiment: Experiment) -> None:
        """Start afresh. What an earlier run left under the same names goes, so that old and new are never mixed."""
        self.path.mkdir(parents=True, exist_ok=True)
        for stale in ("tiers", "microcontroller", "tensorboard"):
            shutil.rmtree(self.path / stale, ignore_errors=True)
        for file in (self.checkpoint, self.result, *(self.path / name for name in _OUTCOME)):
            file.unlink(missing_ok=True)
        write_atomically(self._asked, (_experiment.to_json(experiment) + "\n").encode())
        write_atomically(self.metrics, b"")

    def resume(self, experiment: Experiment) -> State | None:
        """What was last saved, or None where nothing was; lines of what was not saved go.

        ExperimentError where the folder holds another experiment.
        """
        if not self.checkpoint.exists():
            return None
        self.holds(experiment)
        state = self.state()
        rows = [row for row in self.rows() if _saved(row, state)]
        write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in rows).encode())
        return state

    def holds(self, experiment: Experiment) -> None:
        """ExperimentError where the folder is that of another experiment."""
        if _experiment.to_json(self.experiment()) != _experiment.to_json(experiment):
            raise ExperimentError(
                f"{self.path}: holds another experiment; resume with the same file and options, or choose --out or, on "
                "a fleet, --set name=OTHER"
            )

    def state(self) -> State:
        """What was last saved. ExperimentError where there is nothing, or where its file is damaged."""
        try:
            return read(self.checkpoint)
        except OSError as error:
            raise ExperimentError(f"{self.checkpoint}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise ExperimentError(f"{self.checkpoint}: damaged ({error}); start over with --fresh") from error

    def experiment(self) -> Experiment:
        """What this folder is a run of. ExperimentError where it is no run's folder."""
        try:
            return _experiment.from_json(self._asked.read_bytes())
        except (OSError, ValueError) as error:
            raise ExperimentError(f"{self.path}: not a run's folder: no readable experiment.json") from error

    def rows(self) -> list[dict[str, Any]]:
        """Lines of metrics; one that a crash cut short is left out."""
        found = []
        for line in self.metrics.read_text().splitlines() if self.metrics.exists() else []:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line of metrics."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())  # the checkpoint that follows is on disk too

    def save(self, state: State) -> None:
        """Keep what a phase led to."""
        save(state, self.checkpoint)

    def read_result(self) -> dict[str, Any]:
        """The outcome. ExperimentError where the run has none yet, or where this is no run's folder."""
        try:
            found: dict[str, Any] = json.loads(self.result.read_bytes())
        except (OSError, ValueError) as error:
            self.experiment()
            raise ExperimentError(f"{self.path}: no result yet; go on with: fedprune resume {self.path}") from error
        return found

    def write_result(self, result: Mapping[str, Any]) -> None:
        """The outcome."""
        write_atomically(self.result, (json.dumps(result, indent=2) + "\n").encode())


def _saved(row: Mapping[str, Any], state: State) -> bool:
    """Whether a line is of a phase that the state has behind it."""
    ahead = row["round"] > state.round or (row["round"] == state.round and row["phase"] == "evaluate")
    done = row["round"] <= state.round + 1 and step_name(row["phase"], row.get("part", "")) in state.done
    return done if ahead else True


def total(rows: Sequence[Mapping[str, Any]], key: str) -> int:
    """Sum of a count over all lines that have it."""
    return sum(row.get(key) or 0 for row in rows)
