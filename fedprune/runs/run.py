"""A whole run: prepare, ask whoever holds the data, finish; from a fresh start or from where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedprune.data import DataError
from fedprune.data.agreement import Agreed
from fedprune.data.loading import agreed_here, own_folders
from fedprune.experiment import Experiment, ExperimentError
from fedprune.federated.rounds.asking import Asking, RunStopped
from fedprune.federated.rounds.model import State
from fedprune.methods import MethodError
from fedprune.runs import forms, one_writer
from fedprune.runs.central import central, here
from fedprune.runs.drive import Progress, drive
from fedprune.runs.folder import RunFolder, why_not_written
from fedprune.runs.setting import Setting, prepare

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fedprune.federated.link.engines import Engine
    from fedprune.runs.over_flower import Real


class Holders(NamedTuple):
    """Whoever holds the data of a run, connected."""

    agree: Callable[[Experiment], Agreed]
    """Ask those with data of their own what it is like. DataError, RunStopped."""
    asking: Callable[[Setting], Asking]


_Connect = Callable[[int, Callable[[Holders], None]], None]
"""Connects so many devices, where it is for this side to say, and does something with them."""


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
    real: Real | None = None,
) -> dict[str, Any]:
    """Run an experiment over devices into the folder ``out`` and return its result.

    Everything is checked before the folder is touched, and no other process writes there meanwhile. ``resume`` goes on
    after what is complete, to the same model bit for bit. Without it an unfinished run in ``out`` is not overwritten,
    unless ``fresh``.

    ``engine`` is `fedprune.federated.link.engines.local` where it is None; ``real`` says that its devices are, behind
    a real link. Where devices have data of their own, simulated ones have the folders in ``data_dir``.

    Raises ExperimentError for what cannot be run, RunStopped where too few devices answered, or where ``out`` cannot be
    written any more: then what is complete is there.
    """
    from fedprune.federated.link import engines
    from fedprune.federated.link.kept_answers import KeptAnswers
    from fedprune.runs import over_flower

    data_dir = data_dir or (RunFolder(out).data_dir() if resume else None)

    def connect(devices: int, use: Callable[[Holders], None]) -> None:
        def serve(grid: Grid) -> None:
            def asking(setting: Setting) -> Asking:
                answers = KeptAnswers(grid, RunFolder(out).answers) if real is None else grid
                return over_flower.link(answers, setting.experiment, progress, real, setting.holds, setting.more())

            use(Holders(lambda asked: over_flower.link(grid, asked, progress, real).agree(), asking))

        (engine or engines.local)(devices, data_dir, serve)

    return _run(connect, experiment, out, source, data_dir, resume, fresh, progress, simulated=real is None)


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
    data_dir = data_dir or (RunFolder(out).data_dir() if resume else None)
    experiment = central(experiment, source, data_dir, lambda text: progress({"notice": text}))

    def connect(devices: int, use: Callable[[Holders], None]) -> None:
        use(Holders(lambda asked: agreed_here(asked.data, data_dir), lambda setting: here(setting, data_dir)))

    return _run(connect, experiment, out, source, data_dir, resume, fresh, progress)


def _run(
    connect: _Connect,
    experiment: Experiment,
    out: Path,
    source: str,
    data_dir: str | None,
    resume: bool,
    fresh: bool,
    progress: Progress,
    *,
    simulated: bool = False,
) -> dict[str, Any]:
    one_writer.free(out)  # else it would be said only after the seconds that preparing takes
    folder, result = RunFolder(out), dict[str, Any]()
    going_on = resume and folder.begun
    if not (resume or fresh) and folder.begun and not folder.result.exists():
        raise ExperimentError(
            f"{out}: holds an unfinished run; add --resume to go on with it, or --fresh to start over"
        )

    def prepared(agreed: Agreed | None) -> Setting:
        setting = prepare(experiment, source, data_dir, agreed)
        cannot = forms.ready(setting, source)
        if not going_on:
            setting.given_weights(source)
            setting.given_masks(source)
            for text in (*setting.notices, *filter(None, (cannot,))):
                progress({"notice": text})
        return setting

    def rounds(setting: Setting, agreed: Agreed | None, holders: Holders) -> None:
        with folder.held(), _in_words(folder, source):
            state: State | None = None
            if resume:
                state = folder.resume(experiment, lambda text: progress({"notice": text}))
            if state is None:
                folder.begin(experiment)
                folder.remember(data_dir)
                if agreed is not None:
                    folder.agree(agreed)
            else:
                setting.fits(state, str(folder.checkpoint))
            result.update(drive(holders.asking(setting), setting, folder, state, progress))

    if experiment.data.partition != "own":
        setting = prepared(None)
        connect(len(setting.holds), lambda holders: rounds(setting, None, holders))
    elif going_on:
        if (kept := folder.agreed()) is None:  # other devices may be there by now, and would agree on something else
            raise ExperimentError(f"{out}/agreed.json: is missing; start over with --fresh")
        setting = prepared(kept)
        connect(_own_devices(data_dir, source, simulated=simulated), lambda holders: rounds(setting, kept, holders))
    else:

        def ask_first(holders: Holders) -> None:
            try:
                agreed = holders.agree(experiment)
            except DataError as error:
                raise ExperimentError(f"{source}: data: {error}") from error
            rounds(prepared(agreed), agreed, holders)

        connect(_own_devices(data_dir, source, simulated=simulated), ask_first)
    return result


def _own_devices(data_dir: str | None, source: str, *, simulated: bool) -> int:
    """How many devices with own data a simulation has; real ones come by themselves."""
    try:
        return len(own_folders(data_dir)) if simulated else 0
    except DataError as error:
        raise ExperimentError(f"{source}: data: {error}") from error


@contextmanager
def _in_words(folder: RunFolder, source: str) -> Iterator[None]:
    """What a method, the disk or the folder does to a run, as an error of one line."""
    try:
        yield
    except MethodError as error:
        raise ExperimentError(f"{source}: {error}") from error
    except DataError as error:
        raise ExperimentError(f"{source}: data: {error}") from error
    except OSError as error:
        folder.still_there()
        raise RunStopped(why_not_written(error, folder.path)) from error
