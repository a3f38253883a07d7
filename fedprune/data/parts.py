"""The parts of a federation as indices into one data set; examples are copied only when a part is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fedprune.data.examples import Array, Examples, IntArray

PARTS = ("train", "development", "test")
"""Parts of a device's data."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Both splits of a data set under one index: training examples first, official test examples after them."""

    train: Examples
    test: Examples | None

    @property
    def labels(self) -> Array:
        """(n, ...) labels of both splits."""
        return np.concatenate([self.train.labels, *([] if self.test is None else [self.test.labels])])

    @property
    def strata(self) -> IntArray:
        """(n,) by what parts of both splits are drawn evenly."""
        return np.concatenate([self.train.strata, *([] if self.test is None else [self.test.strata])])

    def take(self, indices: IntArray) -> Examples:
        """Returns a copy of the examples at `indices` (m,), in that order."""
        first = indices < len(self.train)
        if first.all() or self.test is None:
            return self.train.take(indices)
        if not first.any():
            return self.test.take(indices - len(self.train))
        one, other = self.train.take(indices[first]), self.test.take(indices[~first] - len(self.train))
        people = None if one.people is None or other.people is None else np.concatenate([one.people, other.people])
        both = Examples(np.concatenate([one.inputs, other.inputs]), np.concatenate([one.labels, other.labels]), people)
        return both.take(np.argsort(np.concatenate([np.flatnonzero(first), np.flatnonzero(~first)])))


@dataclass(frozen=True, eq=False)
class DeviceData:
    """One device's three disjoint parts. Only indices are held: each access of a part copies its examples anew."""

    pool: Pool
    train_indices: IntArray
    development_indices: IntArray
    test_indices: IntArray

    def indices(self) -> dict[str, IntArray]:
        """Rows of the pool by part: train, development, test."""
        return dict(zip(PARTS, (self.train_indices, self.development_indices, self.test_indices), strict=True))

    def sizes(self) -> dict[str, int]:
        """Examples of each part."""
        return {part: len(rows) for part, rows in self.indices().items()}

    def alone(self) -> DeviceData:
        """The same parts of a pool that holds nothing else, in their order."""
        rows = np.concatenate(list(self.indices().values()))
        ends = np.cumsum(list(self.sizes().values()))[:-1]
        return DeviceData(Pool(self.pool.take(rows), None), *np.split(np.arange(len(rows)), ends))

    @property
    def train(self) -> Examples:
        """What the device trains on."""
        return self.pool.take(self.train_indices)

    @property
    def development(self) -> Examples:
        """Training data kept aside to select by, as for FedTiny's candidates; never trained on. May be empty."""
        return self.pool.take(self.development_indices)

    @property
    def test(self) -> Examples:
        """What the device evaluates on, and nothing else is done with. May be empty."""
        return self.pool.take(self.test_indices)


@dataclass(frozen=True, eq=False)
class Federation:
    """A data set spread over a server and its devices. Cheap to make: let each process make its own from the seed."""

    pool: Pool
    public_indices: IntArray
    devices: tuple[DeviceData, ...]
    unused_indices: IntArray
    """Examples nobody holds: they share raw samples with a test example, or `examples` left them out."""

    @property
    def public(self) -> Examples:
        """The server's public set, copied at each access."""
        return self.pool.take(self.public_indices)

    def united(self) -> Federation:
        """The same with one device, which holds what all devices do, part by part, in stored order."""

        def all_of(part: Callable[[DeviceData], IntArray]) -> IntArray:
            return np.sort(np.concatenate([part(device) for device in self.devices]))

        whole = DeviceData(
            self.pool,
            all_of(lambda device: device.train_indices),
            all_of(lambda device: device.development_indices),
            all_of(lambda device: device.test_indices),
        )
        return replace(self, devices=(whole,))
