"""Folders of devices with data of their own: small images of patterns, as .npz files that somebody might bring."""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedprune.experiment import Experiment, parse
from fedprune.federated.link import engines
from fedprune.federated.link.client import client_app
from fedprune.federated.link.engines import Engine
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.link.records import from_records, to_records, values_of
from fedprune.runs.run import simulate

SHAPE = (1, 6, 6)
LABELS = ("bee", "cat", "dog", "eel")


def record(folder: Path, labels: Sequence[str], each: int = 40, seed: int = 0, file: str = "first.npz") -> None:
    """``each`` noisy images of each label into a file of a folder."""
    rng = np.random.default_rng(seed)
    patterns = dict(zip(LABELS, np.random.default_rng(7).normal(size=(len(LABELS), *SHAPE)), strict=True))
    names = np.repeat(np.array(labels), each)
    inputs = np.stack([patterns[name] for name in names]) + rng.normal(scale=0.7, size=(len(names), *SHAPE))
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / file, inputs=(3 * inputs + 5).astype(np.float32), labels=names)


def people(root: Path) -> Path:
    """Three devices with equally many, but different, classes."""
    for seed, (name, labels) in enumerate({"ann": "bee cat", "bob": "cat dog", "cyd": "dog bee"}.items()):
        record(root / name, labels.split(), seed=seed)
    return root


def experiment(**changes: Any) -> Experiment:
    """Three rounds of FedTiny on whatever devices have; ``changes`` replace whole keys."""
    table: dict[str, Any] = {
        "name": "own",
        "model": "tiny_world:net",
        "rounds": 3,
        "data": {"name": "arrays", "partition": "own"},
        "training": {"batch": 8, "grow_batch": 16, "epochs": 2, "final_learning_rate": 0.002},
        "method": {"name": "fedtiny", "density": 0.4, "pool": 3, "period": 1, "stop": 2},
    }
    return parse({**table, **changes}, "own")


ONE = functools.partial(engines.local, workers=1)


def go(out: Path, people: Path, **options: Any) -> dict[str, Any]:
    asked = options.pop("experiment", None) or experiment()
    return simulate(asked, out, data_dir=str(people), engine=options.pop("engine", ONE), **options)


class Recorded(LocalGrid):
    """Remembers what devices said, may change it, and shows some of them only later."""

    def __init__(self, devices: int, change: Callable[[Message, Message], Message], late: int = 0) -> None:
        super().__init__(client_app, devices)
        self.change, self.late, self.said = change, late, list[tuple[str, str, dict[str, Any]]]()

    def get_node_ids(self) -> list[int]:
        return super().get_node_ids()[: self._devices - self.late]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        messages = list(messages)
        for asked, reply in zip(messages, super().send_and_receive(messages, timeout=timeout), strict=True):
            changed = self.change(asked, reply)
            kind = asked.metadata.message_type, asked.metadata.group_id
            self.said.append((*kind, {} if changed.has_error() else values_of(changed.content)))
            yield changed


def over(grid: LocalGrid, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("FEDPRUNE_DATA_DIR", str(data_dir))
    return lambda devices, folder, drive: drive(grid)


def as_it_is(asked: Message, reply: Message) -> Message:
    return reply


def claims(route: str, **values: Any) -> Callable[[Message, Message], Message]:
    """The third device says something else."""

    def change(asked: Message, reply: Message) -> Message:
        if asked.metadata.message_type != route or asked.metadata.dst_node_id != 1002 or reply.has_error():
            return reply
        masks = from_records(asked.content).masks
        payload = from_records(reply.content, masks)
        return Message(to_records(payload._replace(values={**payload.values, **values}), masks), reply_to=asked)

    return change
