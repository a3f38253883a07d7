"""A run's folder: what was asked, how far it came, a line for each phase; written so that nothing half-done is read."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from fedprune import experiment as _experiment
from fedprune.data.agreement import AGREED, Agreed, is_agreed
from fedprune.experiment import Data, Experiment, ExperimentError
from fedprune.federated.rounds.model import State, read, save, step_name
from fedprune.files import remove, write_atomically
from fedprune.runs import folder_files, one_writer
from fedprune.types import DeviceId

_Value = TypeVar("_Value")
_STALE = (
    "tiers", "microcontroller", "tensorboard", "model.npz", "model.tflite", "model_float.tflite", "report.html",
    "deployed.json", "devices.json", "agreed.json", "data_dir.txt", "scratch", "answers",
)  # fmt: skip


class RunFolder:
    """``runs/NAME``: experiment.json, checkpoint.fedprune, metrics.jsonl, and what the end adds."""

    def __init__(self, path: Path) -> None:
        """A folder that may not exist yet."""
        self.path = path
        self.checkpoint = path / "checkpoint.fedprune"
        self.before = path / "checkpoint.before.fedprune"
        """The checkpoint before the last."""
        self.answers = path / "answers"
        """What simulated devices answered of a phase that takes long, until it is saved."""
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"
        self._asked = path / "experiment.json"
        self._agreed = path / "agreed.json"
        self._data_dir = path / "data_dir.txt"
        self._lock: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no other process write here for the block. ExperimentError where one does, or where none can."""
        with one_writer.held(self.path, one_writer.command()) as self._lock:
            try:
                yield
            finally:
                self._lock = None

    def still_there(self) -> None:
        """ExperimentError where the folder was taken away since it is held, also where another took its place."""
        if self._lock is not None and not one_writer.holds(self.path, self._lock):
            raise ExperimentError(f"{self.path}: was removed while it was written to; start over")

    @property
    def begun(self) -> bool:
        """Whether there is something to go on from."""
        return self.checkpoint.exists() or self.before.exists()

    def begin(self, experiment: Experiment) -> None:
        """Start afresh. What an earlier run left under the same names goes, so that old and new are never mixed."""
        self.path.mkdir(parents=True, exist_ok=True)
        for stale in (self.checkpoint, self.before, self.result, *(self.path / name for name in _STALE)):
            remove(stale)
        write_atomically(self._asked, (_experiment.to_json(experiment) + "\n").encode())
        write_atomically(self.metrics, b"")

    def resume(self, experiment: Experiment, say: Callable[[str], None] = lambda text: None) -> State | None:
        """What was last saved, or None where nothing was; lines of what was not saved go.

        Where the last checkpoint is damaged, the one before it, which ``say`` is told. ExperimentError where the folder
        holds another experiment.
        """
        if not self.begun:
            return None
        self.holds(experiment)
        try:
            state = self.state()
        except ExperimentError as last:
            why = str(last).partition(";")[0]
            try:
                state = read(self.before)
            except (OSError, ValueError):
                raise ExperimentError(f"{why}, and so is the one before; start over with --fresh") from None
            when = f"of round {state.round}" if state.round >= 0 else "of before round 0"
            say(f"{why}; going on from the one before, {when}")
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
            way = f"go on with: fedprune resume {self.path}" if self.before.exists() else "start over with --fresh"
            raise ExperimentError(f"{self.checkpoint}: damaged ({error}); {way}") from error

    def experiment(self) -> Experiment:
        """What this folder is a run of. ExperimentError where it is no run's folder."""
        try:
            content = self._asked.read_bytes()
        except OSError as error:
            raise ExperimentError(f"{self.path}: not a run's folder: no readable experiment.json") from error
        return _experiment.from_json(content, str(self._asked))

    def remember(self, data_dir: str | None) -> None:
        """Keep where the data of a run on this machine lies, for whoever goes on with it."""
        if data_dir:
            write_atomically(self._data_dir, os.path.abspath(data_dir).encode() + b"\n")

    def data_dir(self) -> str | None:
        """What was kept by ``remember``; None where nothing was."""
        try:
            return self._data_dir.read_text(encoding="utf-8").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def agree(self, agreed: Agreed) -> None:
        """Keep what devices with their own data agreed on before round 0."""
        kept = _Kept(
            agreed.settings,
            {str(device): _Parts(**parts) for device, parts in agreed.holds.items()},
            {str(device): tier for device, tier in agreed.tiers.items()},
        )
        text = msgspec.json.format(msgspec.json.encode(kept))
        write_atomically(self._agreed, text + b"\n")

    def agreed(self) -> Agreed | None:
        """What was kept by ``agree``; None where nothing was. ExperimentError where it is damaged."""
        try:
            kept = msgspec.json.decode(self._agreed.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise ExperimentError(f"{self._agreed}: damaged ({error}); start over with --fresh") from error
        if not is_agreed(kept.data):
            raise ExperimentError(f"{self._agreed}: does not say what an example is; start over with --fresh")
        asked = self.experiment().data
        for key in Data.__struct_fields__:
            fixed = getattr(asked, key)
            if getattr(kept.data, key) != fixed and (fixed or key not in AGREED):
                raise ExperimentError(f"{self._agreed}: {key} is not experiment.json's; start over with --fresh")
        holds = {device: msgspec.structs.asdict(parts) for device, parts in kept.devices.items()}
        return Agreed(kept.data, _by_id(holds), _by_id(kept.tiers))

    def rows(self) -> list[dict[str, Any]]:
        """Lines of metrics; what is none, as where a crash cut one short, is left out."""
        return self._rows()[0]

    def damaged_rows(self) -> int:
        """How many lines of metrics are left out."""
        return self._rows()[1]

    def _rows(self) -> tuple[list[dict[str, Any]], int]:
        return folder_files.rows(self.metrics.read_bytes().split(b"\n") if self.metrics.exists() else [])

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line of metrics."""
        self.still_there()
        try:
            with self.metrics.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())  # the checkpoint that follows is on disk too
        except OSError as error:
            error.filename = str(self.metrics)
            raise

    def save(self, state: State) -> None:
        """Keep what a phase led to, and what was kept before."""
        self.still_there()
        if self.checkpoint.exists():
            other = self.before.with_suffix(".half")
            other.unlink(missing_ok=True)
            try:
                os.link(self.checkpoint, other)
            except OSError:  # not every file system knows two names of one file
                shutil.copyfile(self.checkpoint, other)
            other.replace(self.before)
        save(state, self.checkpoint)
        remove(self.answers)

    def read_result(self) -> dict[str, Any]:
        """The outcome. ExperimentError where there is none yet, or a damaged one, or where this is no run's folder."""
        experiment = self.experiment()
        try:
            return folder_files.result(self.result.read_bytes(), experiment.fleet)
        except FileNotFoundError as error:
            raise ExperimentError(f"{self.path}: no result yet; go on with: fedprune resume {self.path}") from error
        except OSError as error:
            raise ExperimentError(f"{self.result}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            again = f"write it again with: fedprune resume {self.path}"
            raise ExperimentError(f"{self.result}: damaged ({error}); {again}") from error

    def write_result(self, result: Mapping[str, Any]) -> None:
        """The outcome."""
        self.still_there()
        write_atomically(self.result, (json.dumps(result, indent=2) + "\n").encode())
        remove(self.answers)


class _Parts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Examples of a device, by part."""

    train: folder_files.Count
    development: folder_files.Count
    test: folder_files.Count


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """agreed.json."""

    data: Data
    devices: dict[str, _Parts]
    """By name."""
    tiers: dict[str, str] = {}


def _by_id(table: Mapping[str, _Value]) -> dict[DeviceId, _Value]:
    return dict(table.items())


def inside(folder: Path, *names: str) -> Path:
    """A folder in a run's folder, made where it is not there. ExperimentError where it is a link, and leads outside."""
    for name in names:
        folder = folder / name
        if folder.is_symlink():
            raise ExperimentError(f"{folder}: is a link; a run is written into its own folder alone: remove the link")
        folder.mkdir(exist_ok=True)
    return folder


def why_not_written(error: OSError, folder: Path) -> str:
    """What kept a run from being written into its folder, in one line."""
    where = folder if error.filename is None else error.filename
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}: the disk is full; make room"
    return f"{where}: {error.strerror or error}"


def _saved(row: Mapping[str, Any], state: State) -> bool:
    """Whether a line is of a phase that the state has behind it."""
    ahead = row["round"] > state.round or (row["round"] == state.round and row["phase"] in ("evaluate", "check"))
    done = row["round"] <= state.round + 1 and step_name(row["phase"], row.get("part", "")) in state.done
    return done if ahead else True


def total(rows: Sequence[Mapping[str, Any]], key: str) -> int:
    """Sum of a count over all lines that have it."""
    return sum(row.get(key) or 0 for row in rows)
