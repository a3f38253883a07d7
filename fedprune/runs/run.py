"""A whole run: prepare, ask whoever holds the data, finish; from a fresh start or from where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprune.experiment import Experiment, ExperimentError
from fedprune.federated.rounds.asking import RunStopped
from fedprune.federated.rounds.model import State
from fedprune.methods import MethodError
from fedprune.runs import forms, one_writer
from fedprune.runs.central import central, here
from fedprune.runs.drive import Progress, drive
from fedprune.runs.folder import RunFolder, why_not_written
from fedprune.runs.outcome import finish
from fedprune.runs.setting import Setting, prepare

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fedprune.federated.link.engines import Engine

_Rounds = Callable[[Setting, RunFolder, State | None], None]
"""(setting, folder, the state to go on from, None at the start): all rounds, saved in the folder."""


def simulate(
    experiment: Experiment,
    out: Path,
    *,
    source: str = "experiment",
    data_dir: str | None = None,
    engine: Engine | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: Progress = lambda row: None,
    real: bool = False,
) -> dict[str, Any]:
    """Run an experiment over devices into the folder ``out`` and return its result.

    Everything is checked before the folder is touched, and no other process writes there meanwhile. ``resume`` goes on
    after what is complete, to the same model bit for bit. Without it an unfinished run in ``out`` is not overwritten,
    unless ``fresh``.

    ``engine`` is `fedprune.federated.link.engines.local` where it is None; ``real`` says that its devices are, behind
    a real link.

    Raises ExperimentError for what cannot be run, RunStopped where too few devices answered, or where ``out`` cannot be
    written any more: then what is complete is there.
    """
    from fedprune.federated.link import engines
    from fedprune.runs import over_flower

    def rounds(setting: Setting, folder: RunFolder, state: State | None) -> None:
        def serve(grid: Grid) -> None:
            over_flower.drive(grid, setting, folder, state, progress, real=real)

        (engine or engines.local)(len(setting.federation.devices), data_dir, serve)

    return _run(rounds, experiment, out, source, data_dir, resume, fresh, progress)


def train(
    experiment: Experiment,
    out: Path,
    *,
    source: str = "experiment",
    data_dir: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: Progress = lambda row: None,
) -> dict[str, Any]:
    """Run an experiment on one holder of all devices' examples, without Flower; everything else is as in `simulate`.

    What `central` leaves out of the experiment is told as a ``notice``.
    """
    experiment = central(experiment, source, data_dir, lambda text: progress({"notice": text}))

    def rounds(setting: Setting, folder: RunFolder, state: State | None) -> None:
        drive(here(setting), setting, folder, state, progress)

    return _run(rounds, experiment, out, source, data_dir, resume, fresh, progress)


def _run(
    rounds: _Rounds,
    experiment: Experiment,
    out: Path,
    source: str,
    data_dir: str | None,
    resume: bool,
    fresh: bool,
    progress: Progress,
) -> dict[str, Any]:
    one_writer.free(out)  # else it would be said only after the seconds that preparing takes
    setting = prepare(experiment, source, data_dir)
    forms.ready(setting, source)
    folder = RunFolder(out)
    if not (resume and folder.begun):
        setting.given_weights(source)
    with folder.held(), _in_words(folder, source):
        state: State | None = None
        if resume:
            state = folder.resume(experiment, lambda text: progress({"notice": text}))
        elif not fresh and folder.begun and not folder.result.exists():
            raise ExperimentError(
                f"{out}: holds an unfinished run; add --resume to go on with it, or --fresh to start over"
            )
        if state is None:
            folder.begin(experiment)
        else:
            setting.fits(state, str(folder.checkpoint))
        rounds(setting, folder, state)
        progress({"phase": "export"})
        return finish(setting, folder, folder.state())


@contextmanager
def _in_words(folder: RunFolder, source: str) -> Iterator[None]:
    """What a method, the disk or the folder does to a run, as an error of one line."""
    try:
        yield
    except MethodError as error:
        raise ExperimentError(f"{source}: {error}") from error
    except OSError as error:
        folder.still_there()
        raise RunStopped(why_not_written(error, folder.path)) from error
