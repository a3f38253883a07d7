"""What a device's process takes: the messages that one device of a simulation got, answered again as a real one does.

Run as ``python -m fedprune.runs.compare.replay``: a process that loads what a device loads, and nothing else.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from fedprune import experiment as _experiment
from fedprune.data import Dataset, DeviceData, Schema
from fedprune.data.loading import DATA_DIR
from fedprune.experiment import Data
from fedprune.federated.rounds.phases.local_steps import ROUTE

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

_GIVEN = "given.pickle"
_LOADER = "fedprune.runs.compare.replay:load"


class Kept:
    """The last message of each kind to one node."""

    def __init__(self, node: int) -> None:
        """``node`` is whose."""
        self._node = node
        self.messages: dict[str, tuple[str, Any]] = {}
        """Message type -> (group, records)."""

    def __call__(self, message: Message) -> None:
        """Keep it, if it is for the node."""
        if message.metadata.dst_node_id == self._node:
            self.messages[message.metadata.message_type] = message.metadata.group_id, message.content


def replayed(messages: Mapping[str, tuple[str, Any]], schema: Schema, parts: DeviceData) -> dict[str, float]:
    """Answer ``messages`` in a process of its own, of a device that holds ``parts``.

    Returns ``peak_bytes``, its resident memory at its fullest, and ``train_seconds``, processor time of training.
    RuntimeError where the process fails.
    """
    with TemporaryDirectory() as name:
        given = pickle.dumps((dict(messages), schema, parts.alone()))
        (Path(name) / _GIVEN).write_bytes(given)
        command = [sys.executable, "-m", "fedprune.runs.compare.replay"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, DATA_DIR: name})
    if done.returncode:
        raise RuntimeError(f"a device's process failed: {''.join(done.stderr.strip().splitlines()[-1:])}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _given(data_dir: str | Path | None) -> tuple[Mapping[str, tuple[str, RecordDict]], Schema, DeviceData]:
    assert data_dir is not None
    found: tuple[Mapping[str, tuple[str, RecordDict]], Schema, DeviceData]
    found = pickle.loads((Path(data_dir) / _GIVEN).read_bytes())
    return found


def load(data_dir: Path | None = None) -> Dataset:
    """What the device holds, as a data set of one device."""
    _, schema, parts = _given(data_dir)
    train = parts.pool.take(np.concatenate([parts.train_indices, parts.development_indices]))
    return Dataset(
        "replayed", train, parts.test, schema.classes, schema.input_shape, schema.mean, schema.std, schema.scale,
        schema.augment,
    )  # fmt: skip


def main() -> None:
    """Answer what the folder that the environment names holds, and print what it took."""
    from flwr.app import Message

    from fedprune.federated.link.client import client_app
    from fedprune.federated.link.local_grid import LocalGrid
    from fedprune.federated.link.records import from_records, to_records

    messages, _, parts = _given(os.environ[DATA_DIR])
    sizes = parts.sizes()
    share = sizes["development"] / max(1, sizes["development"] + sizes["train"])
    data = Data(_LOADER, "iid", 1, public=0.0, development=share)
    seconds = {}
    with LocalGrid(client_app, 1, simulated=False) as grid:
        node = grid.get_node_ids()[0]
        for route, (group, records) in messages.items():
            request = from_records(records)
            text = request.values["experiment"]
            asked = replace(_experiment.from_json(text), data=data, fleet={})
            records = to_records(request._replace(values={**request.values, "experiment": _experiment.to_json(asked)}))
            del request
            started = time.process_time()
            (reply,) = grid.send_and_receive([Message(records, node, route, group_id=group)])
            seconds[route] = time.process_time() - started
            if reply.has_error():
                sys.exit(f"{route}: {reply.error.reason}")
    print(json.dumps({"peak_bytes": _peak_bytes(), "train_seconds": seconds.get(ROUTE, 0.0)}))


def _peak_bytes() -> int:
    """Of this process; where the system does not say it so, what it holds now."""
    try:  # what `resource` says may be of the process that started this one
        status = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main()
