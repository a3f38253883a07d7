"""A phase that takes long and is killed asks only those again whose answers it has not kept."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import tiny_world
from flwr.app import Message
from flwr.serverapp import Grid
from test_federated_same_model import assert_same, timeless

from fedprune.federated.link import kept_answers
from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.rounds.model import read
from fedprune.runs.folder import RunFolder
from fedprune.runs.run import simulate


class Killed(LocalGrid):
    """Dies when ``round`` has had so many answers of what it trains; ``asked`` are (round, node) of all asked."""

    round, answers = "2", 99
    asked: list[tuple[str, int]]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        messages = list(messages)
        trained = [m for m in messages if m.metadata.message_type.startswith("train")]
        self.asked += [(m.metadata.group_id, m.metadata.dst_node_id) for m in trained]
        for count, reply in enumerate(super().send_and_receive(messages, timeout=timeout)):
            if trained and trained[0].metadata.group_id == self.round and count == self.answers:
                raise KeyboardInterrupt
            yield reply


def engine(asked: list[tuple[str, int]], answers: int) -> Callable[..., None]:
    """One that is killed in round 2 after so many answers."""

    def run(devices: int, data_dir: str | None, drive: Callable[[Grid], None]) -> None:
        with Killed(client_app, devices) as grid:
            grid.asked, grid.answers = asked, answers
            drive(grid)

    return run


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "one damaged"])
def test_a_killed_phase_goes_on_with_the_answers_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damaged: bool
) -> None:
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    simulate(tiny_world.experiment(), whole.path, engine=engine([], 99))
    assert not whole.answers.exists()  # it takes seconds
    monkeypatch.setattr(kept_answers, "_EVERY_S", 0.0)
    first, then = list[tuple[str, int]](), list[tuple[str, int]]()
    with pytest.raises(KeyboardInterrupt):
        simulate(tiny_world.experiment(), folder.path, engine=engine(first, 3))
    kept = sorted(folder.answers.iterdir())
    assert len(kept) == 3
    if damaged:
        kept[0].write_bytes(kept[0].read_bytes()[:-1])
    simulate(tiny_world.experiment(), folder.path, engine=engine(then, 99), resume=True)
    assert len([node for round, node in first if round == "2"]) == 4
    assert len([node for round, node in then if round == "2"]) == 1 + damaged
    assert_same(read(whole.checkpoint), read(folder.checkpoint))
    assert timeless(whole.rows()) == timeless(folder.rows())
    assert not folder.answers.exists()


def test_what_a_killed_run_kept_is_no_part_of_one_that_starts_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kept_answers, "_EVERY_S", 0.0)
    asked: list[tuple[str, int]] = []
    with pytest.raises(KeyboardInterrupt):
        simulate(tiny_world.experiment(), tmp_path / "run", engine=engine([], 3))
    simulate(tiny_world.experiment(), tmp_path / "run", engine=engine(asked, 99), fresh=True)
    assert len([node for round, node in asked if round == "2"]) == 4


def test_a_link_to_elsewhere_takes_no_answers_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kept_answers, "_EVERY_S", 0.0)
    folder, elsewhere = RunFolder(tmp_path / "run"), tmp_path / "elsewhere"
    with pytest.raises(KeyboardInterrupt):
        simulate(tiny_world.experiment(), folder.path, engine=engine([], 3))
    folder.answers.rename(elsewhere)
    folder.answers.symlink_to(elsewhere)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    asked: list[tuple[str, int]] = []
    with pytest.raises(KeyboardInterrupt):
        simulate(tiny_world.experiment(), folder.path, engine=engine(asked, 2), resume=True)
    assert len(asked) == 4
    assert len(list(folder.answers.iterdir())) == 4 + 2  # who they are, and two that trained
    assert not folder.answers.is_symlink()
    folder.answers.rename(tmp_path / "other")
    folder.answers.symlink_to(elsewhere)
    simulate(tiny_world.experiment(), folder.path, engine=engine([], 99), resume=True)
    assert not folder.answers.is_symlink()
    assert before == {path.name: path.read_bytes() for path in elsewhere.iterdir()}
