"""Devices that are late, come back, keep failing, or are too slow: the round goes on with the others."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fleets
import pytest
import tiny_world
from flwr.app import Context, Error, Message, RecordDict

from fedprune.experiment import Experiment
from fedprune.federated.link import asking as link
from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.rounds.asking import RunStopped
from fedprune.federated.rounds.model import read
from fedprune.runs import drive as driving
from fedprune.runs import over_flower as server
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import prepare


class Nodes(LocalGrid):
    """A local grid whose nodes come and go: ``when(round)`` gives node -> device, at the start of each round."""

    def __init__(self, when: Callable[[int], dict[int, int]]) -> None:
        """Round 0 is the start; a round begins where nodes are asked for again."""
        super().__init__(client_app, 4)
        self.when, self.round = when, -1
        self.asked: list[tuple[int, str, int]] = []
        self.limits: list[tuple[float | None, float]] = []

    def get_node_ids(self) -> list[int]:
        """The next round's."""
        self.round += 1
        return list(self.when(self.round))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        """Nodes that are gone do not answer; what a device computes goes by its index."""
        devices = self.when(self.round)
        for number, message in enumerate(messages):
            node = message.metadata.dst_node_id
            self.asked.append((int(message.metadata.group_id), message.metadata.message_type, node))
            self.limits.append((timeout, message.metadata.ttl))
            if node in devices:
                message.metadata.__dict__["_message_id"] = str(number)
                config: dict[str, Any] = {"partition-id": devices[node], "simulated": True}
                assert self._app is not None
                yield self._app(message, Context(1, node, config, RecordDict(), {}))


def drive(path: Path, experiment: Experiment, grid: LocalGrid) -> RunFolder:
    """A whole run over a grid."""
    folder = RunFolder(path)
    folder.begin(experiment)
    fleets.drive(grid, prepare(experiment, "test"), folder, None, lambda row: None)
    return folder


ALL = {1000: 0, 1001: 1, 1002: 2, 1003: 3}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that waits for nobody."""
    monkeypatch.setattr(server, "Link", functools.partial(link.Link, patience_s=0.0, pause_s=0.0))


def without(*devices: int) -> dict[int, int]:
    return {node: device for node, device in ALL.items() if device not in devices}


@pytest.mark.usefixtures("impatient")
def test_a_run_starts_with_those_that_are_there_and_others_join(tmp_path: Path) -> None:
    grid = Nodes(lambda round: without(1, 2) if round < 2 else without(1) if round < 3 else ALL)
    rows = drive(tmp_path / "run", tiny_world.experiment(), grid).rows()
    devices = {(row["round"], row["phase"]): row["devices"] for row in rows if row["phase"] in ("train", "evaluate")}
    assert devices == {
        **{(0, "evaluate"): 2, (1, "train"): 2, (1, "evaluate"): 2},
        **{(2, "train"): 3, (2, "evaluate"): 3, (3, "train"): 4, (3, "evaluate"): 4},
    }
    assert not any(row["faults"] for row in rows)
    absent = {row["round"]: sorted(row.get("absent", {})) for row in rows}
    assert absent == {0: ["1", "2"], 1: ["1", "2"], 2: ["1"], 3: []}
    profiles = [(round, node) for round, route, node in grid.asked if route == "query.profile"]
    assert profiles == [(0, 1000), (0, 1003), (2, 1002), (3, 1001)]  # each is asked once


@pytest.mark.usefixtures("impatient")
def test_a_device_that_was_started_again_is_known_by_its_index(whole: Any, tmp_path: Path) -> None:
    again = {**without(2), 77: 2}
    grid = Nodes(lambda round: ALL if round < 2 else again)
    folder = drive(tmp_path / "run", tiny_world.experiment(), grid)
    fleets.assert_same(whole.state, read(folder.checkpoint))
    assert not any(row["faults"] or "absent" in row for row in folder.rows())
    assert {node for round, _, node in grid.asked if round >= 2} == {1000, 1001, 1003, 77}


@pytest.mark.usefixtures("impatient")
def test_a_node_does_not_take_anothers_place(whole: Any, tmp_path: Path) -> None:
    grid = Nodes(lambda round: {**ALL, 66: 2, 67: 3} if round == 2 else ALL)
    folder = drive(tmp_path / "run", tiny_world.experiment(), grid)
    fleets.assert_same(whole.state, read(folder.checkpoint))
    second = [row["strangers"] for row in folder.rows() if row["round"] == 2]
    assert all(said == {str(66): "says that it is device 2, which another node is",
                        str(67): "says that it is device 3, which another node is"} for said in second)  # fmt: skip
    assert not any("strangers" in row for row in folder.rows() if row["round"] != 2)


@pytest.mark.usefixtures("impatient")
def test_too_few_that_are_there_stop_the_run_saved(tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match=r"tiny has 4 devices, but 1 of 1 nodes answered well .device 0 is missing"):
        drive(tmp_path / "start", tiny_world.experiment(), Nodes(lambda round: without(0, 1, 2)))
    grid = Nodes(lambda round: ALL if round < 3 else without(0, 1, 2))
    with pytest.raises(RunStopped, match="1 of 1 nodes"):
        drive(tmp_path / "later", tiny_world.experiment(), grid)
    assert RunFolder(tmp_path / "later").state().round == 2


def test_a_bad_round_is_tried_again_with_the_same_jobs(whole: Any, go: Callable[..., Any], impatient: None) -> None:
    times: dict[tuple[str, str, int], int] = {}

    def fail(asked: Message, reply: Message) -> Message:
        key = asked.metadata.message_type, asked.metadata.group_id, asked.metadata.dst_node_id
        times[key] = times.get(key, 0) + 1
        if key[:2] == ("train", "2") and key[2] != 1000 and times[key] <= 2:
            return Message(Error(0, "RuntimeError: no power"), reply_to=asked)
        return reply

    run = go(tiny_world.experiment(), change=fail)
    fleets.assert_same(whole.state, run.state)
    assert [row.get("retried", 0) for row in run.rows if row["phase"] == "train"] == [0, 2, 0]
    assert not any(row["faults"] for row in run.rows)
    assert times["train", "2", 1000] == 1  # who answered well is not asked again
    assert {times["train", "2", node] for node in (1001, 1002, 1003)} == {3}
    times.clear()
    with pytest.raises(RunStopped, match="round 2, train: 1 of 4"):
        go(tiny_world.experiment(retries=1), change=fail)


def test_a_device_that_keeps_failing_is_set_aside_and_tried_again(go: Callable[..., Any]) -> None:
    def fail(asked: Message, reply: Message) -> Message:
        bad = asked.metadata.message_type == "train" and asked.metadata.dst_node_id == 1003
        if bad and int(asked.metadata.group_id) <= 7:
            return Message(Error(0, "RuntimeError: no power"), reply_to=asked)
        return reply

    def stop(row: dict[str, Any]) -> None:
        if (row.get("round"), row.get("phase")) == (4, "train"):
            raise KeyboardInterrupt

    asked = tiny_world.experiment(rounds=12, method={"name": "fedavg"})
    with pytest.raises(KeyboardInterrupt):
        go(asked, change=fail, progress=stop)
    run = go(asked, change=fail, resume=True)  # it does not come back sooner because the server does
    trained = {row["round"]: row for row in run.rows if row["phase"] == "train"}
    assert [round for round, row in trained.items() if row["faults"]] == [1, 2, 3, 7]
    assert [round for round, row in trained.items() if "aside" in row] == [4, 5, 6, 8, 9, 10]
    assert trained[4]["aside"] == {"3": "until round 6"}
    assert [row["devices"] for row in trained.values()] == [3] * 10 + [4, 4]
    evaluated = {row["round"]: row["devices"] for row in run.rows if row["phase"] == "evaluate"}
    assert [round for round, devices in evaluated.items() if devices == 3] == [3, 4, 5, 6, 7, 8, 9, 10]


def test_no_more_are_set_aside_than_the_run_can_spare(go: Callable[..., Any]) -> None:
    def fail(asked: Message, reply: Message) -> Message:
        failing = (1002, 1003) if int(asked.metadata.group_id) < 4 else (1001,)
        if asked.metadata.message_type == "train" and asked.metadata.dst_node_id in failing:
            return Message(Error(0, "RuntimeError: no power"), reply_to=asked)
        return reply

    run = go(tiny_world.experiment(rounds=6, method={"name": "fedavg"}), change=fail)
    rows = [row for row in run.rows if row["phase"] == "train"]
    assert [row["devices"] for row in rows] == [2, 2, 2, 1, 1, 1]
    for row in rows[3:]:  # half of them is the least, so device 1 stays
        assert row["aside"] == {"2": "until round 6", "3": "until round 6"}
        assert list(row["faults"]) == ["1"]


@pytest.mark.usefixtures("impatient")
def test_a_slow_device_is_a_fault_and_its_messages_do_not_live_on(tmp_path: Path) -> None:
    class Slow(Nodes):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
            for reply in super().send_and_receive(messages, timeout=timeout):
                late = reply.metadata.message_type == "train" and reply.metadata.src_node_id == 1001
                if not (late and timeout is not None):  # what Flower's grid does with a reply after its timeout
                    yield reply

    grid = Slow(lambda round: ALL)
    rows = drive(tmp_path / "run", tiny_world.experiment(rounds=1, deadline_s=90), grid).rows()
    (trained,) = (row for row in rows if row["phase"] == "train")
    assert trained["faults"] == {"1": "no reply within 90 s"}
    assert set(grid.limits) == {(90.0, 90.0)}
    patient = Slow(lambda round: ALL)
    rows = drive(tmp_path / "patient", tiny_world.experiment(rounds=1), patient).rows()
    assert not any(row["faults"] for row in rows)
    assert {timeout for timeout, _ in patient.limits} == {None}


class Asked(LocalGrid):
    """A local grid that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(client_app, 4)
        self.asked: list[str] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        messages = list(messages)
        self.asked += [message.metadata.message_type for message in messages]
        return super().send_and_receive(messages, timeout=timeout)


def test_a_run_that_has_only_its_export_left_asks_devices_who_they_are_and_to_check_it_alone(
    whole: Any, tmp_path: Path
) -> None:
    asked, folder = tiny_world.experiment(), RunFolder(tmp_path / "run")
    folder.begin(asked)
    folder.save(whole.state)
    for _ in range(2):
        with Asked() as grid:
            link = server.link(grid, asked, lambda row: None, None)
            result = driving.drive(link, prepare(asked, "test"), folder, whole.state, lambda row: None)
        assert grid.asked == ["query.profile"] * 4 + ["query.check"] * 4
        (row,) = folder.rows()
        assert (row["round"], row["phase"], row["devices"], row["faults"]) == (3, "check", 4, {})
        fleets.assert_same(whole.state, read(folder.checkpoint))
        assert 0 < result["accuracy_int8"] <= 1
        folder.resume(asked)  # as a server does that was stopped before it wrote the result
        assert not folder.rows()
