"""Devices with as much memory as their tier states: each message is answered by a fresh process that gets no more."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict

from fedprune.federated.link.client import client_app
from fedprune.federated.link.local_grid import LocalGrid, _identify


class LimitedGrid(LocalGrid):
    """A local grid; ``peaks`` has, for each device and kind of message, the most that its process took, in bytes."""

    def __init__(self, limits: Mapping[int, int], *, torch: bool) -> None:
        """Device -> bytes of resident memory that its process may come to, 0 for no limit; what trains there."""
        super().__init__(client_app, len(limits))
        self.limits, self.torch, self.peaks = limits, torch, dict[tuple[int, str], int]()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """As of a local grid, one process after the other."""
        for message in messages:
            device = message.metadata.dst_node_id - self.get_node_ids()[0]
            message.metadata.__dict__["_message_id"] = f"{id(message)}"
            with tempfile.TemporaryDirectory() as folder:
                asked, answered = Path(folder, "asked"), Path(folder, "answered")
                asked.write_bytes(pickle.dumps((message, device, len(self.limits), self.limits[device], self.torch)))
                command = [sys.executable, "-m", __name__, str(asked), str(answered)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
                if done.returncode:
                    yield Message(Error(2, done.stderr), reply_to=message)
                    continue
                reply, peak = pickle.loads(answered.read_bytes())
            key = (device, message.metadata.message_type)
            self.peaks[key] = max(peak, self.peaks.get(key, 0))
            yield reply


def main() -> None:
    """Answer one message; the limit holds from when everything that a first step loads is there."""
    import psutil

    from fedprune.budgets import measure
    from simulations.benchmarks._memory_device import Watch

    watch = Watch()
    _identify()
    message, device, devices, limit, torch = pickle.loads(Path(sys.argv[1]).read_bytes())
    app = client_app()
    measure(torch=torch)
    if limit:
        used = psutil.Process().memory_info()
        allowed = used.vms + max(0, limit - used.rss)
        resource.setrlimit(resource.RLIMIT_AS, (allowed, resource.getrlimit(resource.RLIMIT_AS)[1]))
    config: dict[str, str | int | float | bool | bytes] = {"partition-id": device, "num-partitions": devices}
    reply = app(message, Context(1, message.metadata.dst_node_id, config, RecordDict(), {}))
    Path(sys.argv[2]).write_bytes(pickle.dumps((reply, watch.peak_bytes())))


if __name__ == "__main__":
    main()
