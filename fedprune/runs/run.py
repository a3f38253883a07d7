"""A whole simulation: prepare, run over an engine, finish; from a fresh start or from where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedprune.experiment import Experiment, ExperimentError
from fedprune.federated.link.engines import Engine, local
from fedprune.federated.rounds.asking import RunStopped
from fedprune.federated.rounds.model import State
from fedprune.methods import MethodError
from fedprune.runs import forms, one_writer
from fedprune.runs.drive import Progress, drive
from fedprune.runs.folder import RunFolder, why_not_written
from fedprune.runs.outcome import finish
from fedprune.runs.setting import prepare


def simulate(
    experiment: Experiment,
    out: Path,
    *,
    source: str = "experiment",
    data_dir: str | None = None,
    engine: Engine = local,
    resume: bool = False,
    fresh: bool = False,
    progress: Progress = lambda row: None,
    real: bool = False,
) -> dict[str, Any]:
    """Run an experiment into the folder ``out`` and return its result.

    Everything is checked before the folder is touched, and no other process writes there meanwhile. ``resume`` goes on
    after what is complete, to the same model bit for bit. Without it an unfinished run in ``out`` is not overwritten,
    unless ``fresh``.

    ``real`` says that the engine's devices are, behind a real link.

    Raises ExperimentError for what cannot be run, RunStopped where too few devices answered, or where ``out`` cannot be
    written any more: then what is complete is there.
    """
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

        def serve(grid: Grid) -> None:
            drive(grid, setting, folder, state, progress, real=real)

        engine(len(setting.federation.devices), data_dir, serve)
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
