"""Runs of the tiny world, made once and read by many tests."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import recorded_world
import tiny_world
from fleets import drive
from flwr.app import Message
from flwr.clientapp import ClientApp

from fedprune.experiment import Experiment
from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.rounds.model import State, read
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import prepare


class Recorder(LocalGrid):
    """A local grid that remembers what crossed it, and may change a reply on its way."""

    def __init__(
        self,
        make_app: Callable[[], ClientApp],
        devices: int,
        workers: int = 1,
        change: Callable[[Message, Message], Message] | None = None,
    ) -> None:
        super().__init__(make_app, devices, workers)
        self.change = change or (lambda asked, reply: reply)
        self.crossed: list[tuple[Message, Message]] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        """Every (request, reply as it left the device) is kept; the server sees the changed reply."""
        messages = list(messages)
        for asked, reply in zip(messages, super().send_and_receive(messages, timeout=timeout), strict=True):
            self.crossed.append((asked, reply))
            yield self.change(asked, reply)


class Run(NamedTuple):
    """What a run left."""

    folder: RunFolder
    rows: list[dict[str, Any]]
    states: list[State]
    """The checkpoint after each complete round."""
    crossed: list[tuple[Message, Message]]

    @property
    def state(self) -> State:
        """The last."""
        return read(self.folder.checkpoint)


def run(
    path: Path,
    experiment: Experiment,
    *,
    make_app: Callable[[], ClientApp] = client_app,
    workers: int = 1,
    resume: bool = False,
    progress: Callable[[dict[str, Any]], None] = lambda row: None,
    change: Callable[[Message, Message], Message] | None = None,
) -> Run:
    """A whole run over the local grid, without the export that ends a simulation."""
    setting = prepare(experiment, "test")
    folder = RunFolder(path)
    state = folder.resume(experiment) if resume else None
    if state is None:
        folder.begin(experiment)
    states: dict[int, State] = {}
    keep = folder.save

    def save(state: State) -> None:
        keep(state)
        if state.round >= 0 and "train" not in state.done:
            states[state.round] = read(folder.checkpoint)

    folder.save = save  # type: ignore[method-assign]
    with Recorder(make_app, len(setting.holds), workers, change) as grid:
        drive(grid, setting, folder, state, progress)
        return Run(folder, folder.rows(), list(states.values()), grid.crossed)


@pytest.fixture(scope="session")
def in_tmp(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """``run`` into a folder of its own."""
    return lambda experiment, **options: run(tmp_path_factory.mktemp("run") / "run", experiment, **options)


@pytest.fixture(scope="session")
def whole(in_tmp: Callable[..., Run]) -> Run:
    """The tiny experiment, run in one go in this process."""
    return in_tmp(tiny_world.experiment())


@pytest.fixture
def recorder() -> type[Recorder]:
    """The grid that ``run`` runs over, for a test that breaks it."""
    return Recorder


@pytest.fixture
def go(tmp_path: Path) -> Callable[..., Run]:
    """``run`` into this test's folder."""
    return functools.partial(run, tmp_path / "run")


@pytest.fixture(scope="session")
def own_whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over three devices with data of their own, without a break: people/ and run/."""
    root = tmp_path_factory.mktemp("own")
    recorded_world.go(root / "run", recorded_world.people(root / "people"))
    return root
