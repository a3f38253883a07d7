"""What a real link changes: several phases in a message, waiting for lost devices, less work for slow ones."""

import functools
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fleets
import numpy as np
import pytest
import tiny_world
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

from fedprune.federated.link import asking as link
from fedprune.federated.link import bundle, client, gathering
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.rounds.asking import RunStopped
from fedprune.federated.rounds.fleet import Fleet
from fedprune.federated.rounds.model import State, read
from fedprune.federated.rounds.phases import train
from fedprune.federated.rounds.standing import Step
from fedprune.runs import over_flower as server
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import prepare

_NODE = 1000


class Link(LocalGrid):
    """Four devices that say how long they took; ``lose(message)`` says whether a message, or its reply, is lost."""

    def __init__(self, lose: Callable[[Message], bool] = lambda message: False, seconds: float = 1.0) -> None:
        super().__init__(client.client_app, 4)
        self.lose, self.seconds = lose, seconds
        self.crossed: list[Message] = []
        self.gone: list[set[int]] = []
        """Nodes that are not connected, at each question who is; none once this is used up."""

    def get_node_ids(self) -> list[int]:
        """Those that are connected."""
        gone = self.gone.pop(0) if self.gone else set()
        return [node for node in super().get_node_ids() if node not in gone]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        """What arrives."""
        for message in messages:
            self.crossed.append(message)
            if not self.lose(message):
                index = message.metadata.dst_node_id - _NODE
                message.metadata.__dict__["_message_id"] = str(len(self.crossed))
                assert self._app is not None
                try:
                    yield self._app(message, Context(1, _NODE + index, {"partition-id": index}, RecordDict(), {}))
                except RuntimeError as error:
                    yield Message(Error(2, f"RuntimeError: {error}"), reply_to=message)


def drive(
    path: Path, grid: LocalGrid, *, resume: bool = False, said: list[Any] | None = None, **changes: Any
) -> RunFolder:
    """A run of the tiny world over a link as real ones are."""
    experiment = tiny_world.experiment(**changes)
    folder = RunFolder(path)
    state = folder.resume(experiment) if resume else None
    if state is None:
        folder.begin(experiment)
    said = [] if said is None else said
    fleets.drive(grid, prepare(experiment, "test"), folder, state, said.append, real=server.Real())
    return folder


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_RETURNS_S", 0.0)
    monkeypatch.setattr(server, "Link", functools.partial(link.Link, pause_s=0.0))


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "device_seconds", "bytes_up")} for row in rows]


def test_tests_travel_with_training_and_change_nothing(whole: Any, tmp_path: Path) -> None:
    grid = Link()
    folder = drive(tmp_path / "run", grid)
    fleets.assert_same(whole.state, read(folder.checkpoint))
    assert timeless(folder.rows()) == timeless(whole.rows)
    kinds = [kind for kind, _ in itertools.groupby(message.metadata.message_type for message in grid.crossed)]
    rounds = [bundle.ROUTE, "query.top_gradients"] * 3
    assert kinds == ["query.profile", "query.bn_statistics", "query.losses", *rounds, "evaluate"]
    # what a message took is divided among its phases, and devices' own part is known
    assert all(row["device_seconds"] >= 0 and row["seconds"] >= 0 for row in folder.rows())


def test_keys_have_names_where_devices_have_numbers(whole: Any, tmp_path: Path) -> None:
    experiment, folder = tiny_world.experiment(), RunFolder(tmp_path / "run")
    folder.begin(experiment)
    real = server.Real(name_of=lambda node: f"enrolled-{node}")
    fleets.drive(Link(), prepare(experiment, "test"), folder, None, lambda row: None, real)
    fleets.assert_same(whole.state, read(folder.checkpoint))


@pytest.mark.parametrize(
    ("round", "phase"), [(0, "evaluate"), (1, "train"), (2, "top_gradients"), (2, "evaluate"), (3, "train")]
)
def test_a_run_over_a_link_goes_on_after_any_phase(whole: Any, tmp_path: Path, round: int, phase: str) -> None:
    class Stopping(list[Any]):
        def append(self, row: dict[str, Any]) -> None:
            if (row.get("round"), row.get("phase")) == (round, phase):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(tmp_path / "run", Link(), said=Stopping())
    folder = drive(tmp_path / "run", Link(), resume=True)
    fleets.assert_same(whole.state, read(folder.checkpoint))
    rows = sorted(timeless(folder.rows()), key=lambda row: (row["round"], row["phase"]))
    assert rows == sorted(timeless(whole.rows), key=lambda row: (row["round"], row["phase"]))


def test_tests_travel_with_training_in_a_fleet_of_tiers(tmp_path: Path, in_tmp: Callable[..., Any]) -> None:
    experiment = fleets.fleet_of("fedtiny")
    folder = RunFolder(tmp_path / "run")
    folder.begin(experiment)
    fleets.drive(Link(), prepare(experiment, "test"), folder, None, lambda row: None, real=server.Real())
    alone = in_tmp(experiment)
    fleets.assert_same(alone.state, read(folder.checkpoint))
    assert {(row["round"], row["phase"], row.get("part")) for row in folder.rows()} == {
        (row["round"], row["phase"], row.get("part")) for row in alone.rows
    }


def test_a_part_that_a_device_cannot_do_costs_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def failing(self: Any, request: Any) -> Any:
        if self.who == 2 and request.values.get("round", 1) == 1:
            raise RuntimeError("no test today")
        return evaluated(self, request)

    evaluated = client.ROUTES["evaluate"]
    monkeypatch.setitem(client.ROUTES, "evaluate", failing)
    rows = drive(tmp_path / "run", Link(), rounds=1).rows()
    said = {(row["round"], row["phase"]): (row["devices"], row["faults"]) for row in rows}
    assert said[1, "train"] == (4, {})
    assert said[0, "evaluate"] == (3, {"2": "RuntimeError: no test today"})


@pytest.mark.parametrize("damage", ["swap", "drop", "other names"])
def test_a_damaged_bundle_is_a_fault_of_its_device(tmp_path: Path, damage: str) -> None:
    class Damaging(Link):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
            for reply in super().send_and_receive(messages, timeout=timeout):
                asked = self.crossed[-1]
                if asked.metadata.message_type == bundle.ROUTE and asked.metadata.dst_node_id == _NODE + 1:
                    parts = bundle.unpack(reply.content)
                    content = {
                        "swap": lambda parts=parts: bundle.pack(reversed(parts)),
                        "drop": lambda parts=parts: bundle.pack(parts[1:]),
                        "other names": lambda: RecordDict({"x": ConfigRecord({})}),
                    }[damage]()
                    reply = Message(content, reply_to=asked)
                yield reply

    rows = drive(tmp_path / "run", Damaging(), rounds=1).rows()
    faults = {row["phase"]: row["faults"] for row in rows if row["faults"]}
    assert faults.keys() == {"evaluate", "train"}
    assert all(list(said) == ["1"] for said in faults.values())


def test_a_lost_device_is_awaited_and_asked_again(whole: Any, tmp_path: Path) -> None:
    lost: list[Message] = []

    def lose(message: Message) -> bool:
        first = message.metadata.message_type == "query.top_gradients" and not lost
        lost.extend([message] * first)
        return first

    grid, said = Link(lose), []
    folder = drive(tmp_path / "run", grid, said=said, least_replies=1.0)
    fleets.assert_same(whole.state, read(folder.checkpoint))
    (row,) = [row for row in folder.rows() if row.get("retried")]
    assert (row["phase"], row["retried"], row["faults"], row.get("late")) == ("top_gradients", 1, {}, None)
    notices = [line["notice"] for line in said if "notice" in line]
    assert notices == ["round 1, query.top_gradients: asking again, since device 0: no reply within 1800 s"]


def test_a_device_that_is_let_in_late_is_awaited_at_the_start(
    whole: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As after a power cut: it is held for connected, but does not answer yet."""
    unheard: list[Message] = []

    def lose(message: Message) -> bool:
        early = message.metadata.dst_node_id == _NODE + 3 and len(unheard) < 2
        unheard.extend([message] * early)
        return early

    monkeypatch.setattr(server, "_RETURNS_S", 60.0)
    monkeypatch.setattr(gathering, "_AGAIN_S", 0.0)
    folder = drive(tmp_path / "run", Link(lose), least_replies=1.0)
    fleets.assert_same(whole.state, read(folder.checkpoint))


def test_a_device_that_does_not_come_back_is_not_asked(tmp_path: Path) -> None:
    grid = Link(
        lambda message: message.metadata.message_type == "query.top_gradients" and message.metadata.dst_node_id == _NODE
    )
    grid.gone = [set(), set(), {_NODE}]  # it is there at the start and as its round begins
    with pytest.raises(RunStopped, match="3 of 4 devices answered well"):
        drive(tmp_path / "run", grid, least_replies=1.0)
    assert sum(message.metadata.message_type == "query.top_gradients" for message in grid.crossed) == 4


def test_the_links_own_word_names_the_device(tmp_path: Path) -> None:
    class Telling(Link):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
            for reply in super().send_and_receive(messages, timeout=timeout):
                asked = self.crossed[-1]
                if asked.metadata.message_type == "query.top_gradients" and asked.metadata.dst_node_id == _NODE + 3:
                    reply = Message(Error(3, "Node Unavailable"), reply_to=asked)
                    reply.metadata.__dict__["_src_node_id"] = 1  # the link's, not the device's
                yield reply

    rows = drive(tmp_path / "run", Telling(), rounds=1).rows()
    (row,) = [row for row in rows if row["phase"] == "top_gradients"]
    assert row["faults"] == {"3": "Node Unavailable"}
    assert "late" not in row  # it was away, not slow


def test_the_limit_is_what_the_slowest_that_is_here_took() -> None:
    fleet = Fleet({0: 10, 1: 11}, (0, 1))
    for seconds in ({0: 40.0, 1: 400.0}, {0: 50.0}):  # in the second round the slow one is not asked
        fleet = fleet.told(Step({"phase": "train"}, State(0, {}), seconds=seconds, route=train.ROUTE), 1)
    assert fleet.slowest_s(train.ROUTE) == 400
    assert fleet.only([0]).slowest_s(train.ROUTE) == 50
    assert fleet.slowest_s("evaluate") is None


def test_a_device_that_is_late_gets_less_to_train_and_more_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shares: list[tuple[int, float, int]] = []
    trained = client.ROUTES[train.ROUTE]

    def training(self: Any, request: Any) -> Any:
        reply = trained(self, request)
        shares.append((self.who, request.values.get("job", {}).get("share", 1.0), reply.values["examples"]))
        return reply

    def lose(message: Message) -> bool:
        """Device 1 is too slow with all of its examples, and with half of them."""
        kinds = (
            [part.route for part in bundle.unpack(message.content)]
            if message.metadata.message_type == bundle.ROUTE
            else []
        )
        late = train.ROUTE in kinds and message.metadata.dst_node_id == _NODE + 1
        times.extend([1] * late)
        return late and len(times) <= 2

    times: list[int] = []
    monkeypatch.setitem(client.ROUTES, train.ROUTE, training)

    class Stopping(list[Any]):
        def append(self, row: dict[str, Any]) -> None:
            if (row.get("round"), row.get("phase")) == (2, "train"):
                raise KeyboardInterrupt

    how: dict[str, Any] = {"rounds": 5, "retries": 0, "deadline_s": 60.0, "method": {"name": "fedavg"}}
    with pytest.raises(KeyboardInterrupt):
        drive(tmp_path / "run", Link(lose), said=Stopping(), **how)
    folder = drive(tmp_path / "run", Link(lose), resume=True, **how)  # who is slow is still known
    rows = {row["round"]: row for row in folder.rows() if row["phase"] == "train"}
    assert [row.get("late") for row in rows.values()] == [[1], [1], None, None, None]
    assert [row.get("replanned", {}).get("1") for row in rows.values()] == [
        "the whole model, 1/2 of its examples", "the whole model, 1/4 of its examples",
        "the whole model, 1/2 of its examples", "the whole model", None,
    ]  # fmt: skip
    mine = [(share, count) for index, share, count in shares if index == 1]
    whole = mine[-1][1]
    assert mine == [(0.25, int(np.ceil(whole / 4))), (0.5, int(np.ceil(whole / 2))), (1.0, whole)]
    assert all(share == 1.0 for index, share, _ in shares if index != 1)
