"""Many SuperNode identities in one process: Flower's own connection for each, with fedprune's ClientApp called in it.

    python -m simulations.benchmarks.soak._identities JOIN_FILE ...

Each has its own key, TLS connection, heartbeat and messages, as a SuperNode has; what is not here is a process for
each and for each of its messages, which 50 of them would want 10 GB and minutes a round for.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_connection import http_request_response

from fedprune.deployment.devices import Join, read_join
from fedprune.federated.link.client import SIMULATED, client_app

_POLL_S = 3.0  # as a SuperNode does
_app = client_app()
_one_at_a_time = threading.Lock()


def serve(join: Join) -> None:
    """Be one node, and connect again whenever the connection ends."""
    key = load_ssh_private_key(join.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    while True:
        try:
            with http_request_response(join.address, False, join.ca.encode(), (key, key.public_key())) as connection:
                while True:
                    if not _answered(join, connection):
                        time.sleep(_POLL_S)
        except BaseException as error:  # Flower ends its process where it cannot connect: here, one thread of many
            print(f"{join.name}: {type(error).__name__}: {error}", flush=True)
            time.sleep(15)


def _answered(join: Join, connection: tuple[Any, ...]) -> bool:
    """Whether there was a message; it is answered then."""
    node, receive, send, _, _, pull_object, push_object, confirm = connection
    if (received := receive()) is None:
        return False
    head, tree = received
    run = head.metadata.run_id
    message = pull_and_inflate_object_from_tree(
        tree, lambda key: pull_object(run, key), lambda key: confirm(run, key), return_type=Message
    )
    message.metadata.__dict__["_message_id"] = tree.object_id
    config = {"partition-id": join.partition, SIMULATED: True}
    with _one_at_a_time:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run, node
        started = time.monotonic()
        reply = _app(message, Context(run, node, config, RecordDict(), {}))
        took = time.monotonic() - started
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
            contents = {key: value.deflate() for key, value in objects.items()}
    wanted, session = send(reply, tree, took)
    for key, content in contents.items():
        if key in wanted:
            push_object(run, session, key, content)
    return True


def main() -> None:
    """All the nodes of these files, until killed."""
    threads = [threading.Thread(target=serve, args=(read_join(Path(file)),)) for file in sys.argv[1:]]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
