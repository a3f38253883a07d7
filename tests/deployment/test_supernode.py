"""How often a device asks for work, and which reply it waits for."""

import threading
import time
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode import start_client_internal as client
from flwr.supernode.nodestate import NodeStateFactory

from fedprune.deployment.device.supernode import Pace, answering
from fedprune.federated.link.local_grid import _identify


def test_a_device_asks_often_after_work_and_then_as_seldom_as_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    pace = Pace()
    for seconds in (3.0, 0.5, 0.1, *[3.0] * 14, 0.5, 3.0):
        pace.sleep(seconds)
    assert waited == [3.0, 0.1, 0.1, *[0.5] * 12, 3.0, 3.0, 0.1, 0.5]


def test_a_late_reply_to_a_run_that_is_over_is_not_taken_for_the_next_ones() -> None:
    _identify()
    stores = ObjectStoreFactory()
    state, store = NodeStateFactory(stores).state(), stores.store()
    sent: list[int] = []

    def reply(run: int) -> Message:
        asked = Message(RecordDict(), dst_node_id=1, message_type="query")
        asked.metadata.__dict__["_run_id"] = run
        asked.metadata.__dict__["_message_id"] = asked.object_id
        state.store_message(asked)
        answer = Message(RecordDict({"of": ConfigRecord({"run": run})}), reply_to=asked)
        answer.metadata.__dict__["_run_id"] = run
        return answer

    def send(message: Message, tree: object, seconds: float) -> tuple[set[str], str]:
        sent.append(message.metadata.run_id)
        return set(), ""

    flower = SimpleNamespace(_pull_and_store_message=lambda **how: 2, _push_messages=client._push_messages)
    answering(flower)
    # of a run that was stopped while its message arrived
    client._insert_message(reply(1), state, store)
    assert flower._pull_and_store_message() == 2
    own = threading.Timer(1.0, client._insert_message, [reply(2), state, store])
    own.start()
    flower._push_messages(state=state, object_store=store, send=send, push_object=lambda *what: None)
    own.join()
    assert sent == [2]
    assert not state.get_messages_legacy(is_reply=True)
