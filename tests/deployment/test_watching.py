"""The account that a fleet's server keeps of its nodes, over a link that fails and a server that is started again."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict

from fedprune.deployment import watching
from fedprune.deployment.watching import Watched
from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.link.records import to_records
from fedprune.wire.payload import MEMORY, Payload


class Shaky(LocalGrid):
    """Two nodes that answer at once, over a link whose first questions fail, as where its database is locked."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(client_app, 2)
        self.failures, self.pushed, self.waiting = failures, 0, {}

    def _fail(self) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise RuntimeError("database is locked")

    def get_node_ids(self) -> list[int]:
        """Both, once the link is well."""
        self._fail()
        return [1, 2]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Their ids; the replies wait."""
        self._fail()
        self.pushed += 1
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"{message.metadata.dst_node_id}"
            node = message.metadata.dst_node_id
            content = to_records(Payload({"device": node - 1, MEMORY: node * 2**20}))
            self.waiting[str(node)] = Message(content, reply_to=message)
        return list(self.waiting)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """What waits."""
        self._fail()
        return [self.waiting.pop(name) for name in list(message_ids)]


def ask(grid: Any, round: int) -> list[Message]:
    content = RecordDict()
    return list(
        grid.send_and_receive(
            [
                Message(content, dst_node_id=node, message_type="train", group_id=str(round))
                for node in grid.get_node_ids()
            ]
        )
    )


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_PAUSES_S", (0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (f"{ValueError}:<'no column 'ax'\n  in walk.csv'>", "ValueError: no column 'ax' in walk.csv"),
        ("<class 'fedprune.data.examples.DataError'>:<'keywords: no folder'>", "DataError: keywords: no folder"),
        ("<class 'a.b.<locals>.Wrong'>:<''>", "Wrong"),
        ("An exception was raised when attempting to load `ClientApp`", None),
        ("", "an error without a reason"),
    ],
)
def test_what_a_device_raises_is_said_as_python_says_it(tmp_path: Path, reason: str, expected: str | None) -> None:
    class Failing(Shaky):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            """An error for each."""
            asked = super().pull_messages(message_ids)
            for reply in asked:
                reply.__dict__.update(_content=None, _error=Error(3, reason))
            return asked

    file = tmp_path / "devices.json"
    replies = ask(Watched(Failing(), file), 1)
    if reason:
        assert [reply.error.reason for reply in replies] == 2 * [expected or reason]
    assert [seen["error"] for seen in json.loads(file.read_bytes()).values()] == 2 * [expected or reason]


def test_rounds_are_counted_once_also_over_a_restart_of_the_server(tmp_path: Path) -> None:
    file = tmp_path / "devices.json"
    grid = Watched(Shaky(), file)
    for round in (0, 1, 1, 2):
        ask(grid, round)
    grid = Watched(Shaky(), file)  # round 2 was cut off
    for round in (2, 3):
        ask(grid, round)
    found = json.loads(file.read_bytes())
    assert {node: (seen["rounds"], seen["device"], seen[MEMORY]) for node, seen in found.items()} == {
        "1": (4, 0, 2**20), "2": (4, 1, 2**21),
    }  # fmt: skip


def test_a_link_that_has_no_time_is_asked_again_and_not_for_ever(tmp_path: Path) -> None:
    shaky = Shaky(failures=3)
    assert len(ask(Watched(shaky, tmp_path / "devices.json"), 1)) == 2
    assert shaky.pushed == 1
    with pytest.raises(RuntimeError, match="locked"):
        ask(Watched(Shaky(failures=4), tmp_path / "devices.json"), 1)
