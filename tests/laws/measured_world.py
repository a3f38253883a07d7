"""Made-up devices with a tiny net each, and what each kind of evidence is asked with: what laws of kinds need."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fedprune import aggregation, counter_rng, graph, training
from fedprune.data import DeviceData, Examples, Schema
from fedprune.data.loading import in_order
from fedprune.data.parts import Pool
from fedprune.measures import bn_statistics
from fedprune.measures.curvature import Along
from fedprune.measures.distortion import Curves
from fedprune.measures.filter_moments import Filters
from fedprune.measures.flow import Thinned
from fedprune.measures.gradient_squares import Squares
from fedprune.measures.probes import Probes
from fedprune.measures.scaled_gradients import Scaled
from fedprune.measures.similarity import Without
from fedprune.models import Slot, draws
from fedprune.pruning import masks
from fedprune.tasks import CLASSIFICATION, Task
from fedprune.types import Model, Params, Tensor
from fedprune.wire.payload import Payload

SHAPE, CLASSES = (1, 6, 6), 3
SIZES = (23, 9, 14)  # of the devices' training parts
DEVELOPMENT = 8


def plain() -> nn.Module:
    """No batch norm, so that an example's loss is its own."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, CLASSES)
    )


def normed() -> nn.Module:
    """Batch norm on what no other batch norm has touched, so that its moments are those of the examples."""
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, CLASSES))


@dataclass(frozen=True)
class Device:
    """A device, as far as a measurement needs it."""

    who: int
    net: Callable[[], nn.Module]
    schema: Schema
    parts: DeviceData
    task: Task = CLASSIFICATION

    @property
    def experiment(self) -> Any:
        """Of an experiment, what measurements look at."""
        return SimpleNamespace(seed=5, training=SimpleNamespace(grow_batch=64))

    @functools.cached_property
    def one_net(self) -> nn.Module:
        """The net that a process keeps."""
        return self.net()

    def model(self, params: Params) -> nn.Module:
        """The net with these parameters and buffers."""
        with torch.no_grad():
            training.load_state(self.one_net, params)
        return self.one_net

    def native(self, request: Payload, params: Params) -> None:
        """Torch measures."""

    def number(self, *names: str | int) -> int:
        """A number that device and names decide."""
        return counter_rng.number(self.experiment.seed, "device", self.who, *names)

    def batches(self, examples: Examples, size: int) -> Iterable[tuple[Tensor, Tensor]]:
        """All examples in stored order."""
        return in_order(self.schema, examples, size)


class World(NamedTuple):
    """Three devices, one that holds all that they hold, and a model with masks."""

    devices: tuple[Device, ...]
    together: Device
    model: Model

    @property
    def slots(self) -> Mapping[str, Slot]:
        """What the state of the net holds."""
        trained = {name for name, _ in self.together.net().named_parameters()}
        return {
            name: Slot(value.shape, value.dtype.name, value.nbytes, name in trained)
            for name, value in self.model.params.items()
        }


def world(net: Callable[[], nn.Module]) -> World:
    """Devices of unequal size that hold different examples."""
    with draws.seeded(3):
        params = training.state_of(net())
    rng = np.random.default_rng(1)
    kept = {name: rng.random(value.shape) < 0.6 for name, value in params.items() if value.ndim > 1}
    count = sum(SIZES) + DEVELOPMENT * len(SIZES)
    labels = rng.integers(0, CLASSES, count)
    inputs = (rng.normal(size=(count, *SHAPE)) + 0.5 * labels[:, None, None, None]).astype(np.float32)
    examples, unit = Examples(inputs, labels.astype(np.int64)), np.ones((1, 1, 1), np.float32)
    schema = Schema(("a", "b", "c"), SHAPE, 0 * unit, unit)
    parts = list(_parts(Pool(examples, None)))
    whole = DeviceData(
        Pool(examples, None),
        np.concatenate([part.train_indices for part in parts]),
        np.concatenate([part.development_indices for part in parts]),
        np.zeros(0, np.int64),
    )
    devices = tuple(Device(index, net, schema, part) for index, part in enumerate(parts))
    return World(devices, Device(9, net, schema, whole), Model(masks.apply(params, kept), kept))


def _parts(pool: Pool) -> Iterator[DeviceData]:
    start = 0
    for size in SIZES:
        train = np.arange(start, start + size)
        start += size + DEVELOPMENT
        yield DeviceData(pool, train, np.arange(start - DEVELOPMENT, start), np.zeros(0, np.int64))


# -- what each kind is asked with


Damage = Callable[[Payload], Payload]


class Case(NamedTuple):
    """How the battery asks for a kind."""

    args: Callable[[Model], Any] = lambda model: None
    net: Callable[[], nn.Module] = plain
    by_batch: bool = False
    """Whether the size of a batch decides what is measured: batch norm sees batches, and a sample may be one."""
    tolerance: Mapping[str, float] = {}
    """End of a name of merged evidence -> how far, relatively, it may be from that of all examples pooled."""
    damages: Mapping[str, Damage] = {}
    """Lies of this kind's own that must be refused, besides those that any kind refuses."""
    requests: Mapping[str, Damage] = {}
    """Requests of this kind's own that a device must refuse."""


def with_values(**values: Any) -> Damage:
    """The payload with other values."""
    return lambda payload: payload._replace(values={**payload.values, **values})


def with_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Damage:
    """The payload with another tensor of a name."""
    return lambda payload: payload._replace(tensors={**payload.tensors, name: change(payload.tensors[name].copy())})


def _set(place: Any, value: Any) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        tensor[place] = value
        return tensor

    return change


def _pool(model: Model) -> Any:
    rng = np.random.default_rng(2)
    drawn = {name: mask & (rng.random(mask.shape) < 0.5) for name, mask in model.masks.items()}
    return bn_statistics.Pool([model.masks, drawn], aggregation.pooled)


def _weights(model: Model) -> tuple[str, ...]:
    return tuple(model.masks)


def _graph(model: Model) -> Any:
    net = plain()
    with torch.no_grad():
        training.load_state(net, model.params)
    return graph.inference(graph.trace(net, np.zeros((1, *SHAPE), np.float32)))


_UNKNOWN = {
    "a layer that the model lacks": with_values(layers=["9.weight"]),
    "no layer": with_values(layers=[]),
    "no list of layers": with_values(layers={"0.weight": 1}),
    "a layer twice": with_values(layers=["0.weight", "0.weight"]),
}
_CANDIDATES = {
    "a candidate without a list": with_values(candidates=[1]),
    "more weights than there are": with_values(candidates={"0": {"1.weight": 10**6}, "1": None}),
    "weights of no layer": with_values(candidates={"0": {"9.weight": 1}, "1": None}),
}
_DISTORTION = Case(
    lambda model: Curves(_weights(model), (0.0, 0.4, 0.8)),
    damages={
        "a distance below 0": with_tensor("distortion/worst", _set((0, 0), -1.0)),
        "a sum below its greatest part": with_tensor("distortion/sum", lambda found: found / 99),
        "a sum that so many cannot have": with_tensor("distortion/sum", lambda found: found * 99),
        "more examples than were asked for": with_values(examples=257),
    },
    requests={
        **_UNKNOWN,
        "a fraction above 1": with_values(fractions=[1.5]),
        "no fraction": with_values(fractions=[]),
        "of no examples": with_values(most=0),
    },
)
_GRAM = Case(
    _weights,
    damages={
        "a square below 0": with_tensor("gram/0.weight", _set(9, -1)),
        "positions of another layer": with_values(positions={"9.weight": 1}),
        "positions without a number": with_values(positions={"0.weight": "1", "2.weight": 1, "5.weight": 1}),
        "too many positions": with_values(positions={"0.weight": 2**63, "2.weight": 1, "5.weight": 1}),
        "no positions": with_values(positions=None),
    },
    requests={**_UNKNOWN, "a bias": with_values(layers=["0.bias"])},
)
CASES: Mapping[str, Case] = {
    "accuracy": Case(
        damages={"more hits than examples": with_values(hits=9), "no hits": with_values(hits=None)},
        requests={"of the test part": with_values(of="test"), "of nothing": with_values(of=None)},
    ),
    "bn_statistics": Case(
        _pool,
        normed,
        by_batch=True,
        # devices' variances are without bias, and are pooled as if they were those of the examples alone
        tolerance={".var": len(SIZES) / DEVELOPMENT},
        damages={"a negative variance": with_tensor("0/2.var", _set(0, -1))},
        requests=_CANDIDATES,
    ),
    "counts": Case(
        lambda model: CLASSES,
        damages={
            "a class too many": with_tensor("classes", lambda found: np.append(found, 0)),
            "a negative class": with_tensor("classes", lambda found: found + np.array([-100, 100, 0])),
            "classes that overflow": with_tensor("classes", _set(slice(None), 2**62)),
            "another sum": with_tensor("classes", lambda found: found + 1),
        },
    ),
    "curvature": Case(
        lambda model: Along(_weights(model), 2.0, {name: model.params[name] for name in model.masks}),
        damages={"of no examples": with_values(examples=0)},
        requests={
            **_UNKNOWN,
            "no temperature": with_values(temperature=0),
            "a direction that nobody goes": with_values(along=False),
            "a direction that is not finite": with_tensor("along/0.weight", _set(0, np.nan)),
        },
    ),
    "distortion": _DISTORTION,
    "distortion_of_noise": _DISTORTION._replace(
        damages={key: how for key, how in _DISTORTION.damages.items() if key != "more examples than were asked for"}
    ),
    "filter_moments": Case(
        lambda model: Filters(_weights(model), (1.0, 0.25, 3.0)),
        damages={
            "a variance of what is read below 0": with_tensor("read/0.weight", _set((-1, 0), -1)),
            "a variance of what is made below 0": with_tensor("made/0.weight", _set((1, 0, 0), -1)),
            "more places than there may be": with_tensor("made/0.weight", lambda made: np.repeat(made, 9, 2)),
            "heavier than the heaviest": with_values(weight=1e6),
            "no weight": with_values(weight=None),
        },
        requests={
            **_UNKNOWN,
            "a bias": with_values(layers=["0.bias"]),
            "a weight below 0": with_values(weights=[1.0, -1.0, 1.0]),
        },
    ),
    "flow": Case(
        lambda model: Thinned(_weights(model), (0.5, 0.25)),
        requests={**_UNKNOWN, "a density of nothing": with_values(densities=[0.5, 0.0])},
    ),
    "gradients": Case(_weights, damages={"of no examples": with_values(examples=0)}, requests=_UNKNOWN),
    "gradient_squares": Case(
        lambda model: Squares(_weights(model)),
        damages={
            "a square below 0": with_tensor("squares/0.weight", _set(0, -1)),
            "more examples than were asked for": with_values(examples=129),
        },
        requests={**_UNKNOWN, "of no examples": with_values(most=0)},
    ),
    "gram": _GRAM,
    "gram_of_noise": _GRAM,
    "input_moments": Case(
        _weights,
        damages={
            "a variance below 0": with_tensor("moments/0.weight", _set(1, -1)),
            "groups that no outputs share": with_tensor("moments/0.weight", lambda found: np.repeat(found, 3, 1)),
            "no groups": with_tensor("moments/0.weight", lambda found: found[:, :0]),
            "positions of another layer": with_values(positions={"9.weight": 1}),
            "fewer positions than examples": with_values(positions={"0.weight": 1, "2.weight": 92, "5.weight": 23}),
            "positions of no examples": with_values(examples=0),
            "no positions": with_values(positions=None),
        },
        requests={**_UNKNOWN, "a bias": with_values(layers=["0.bias"])},
    ),
    "losses": Case(
        _pool,
        normed,
        damages={
            "a loss too few": with_values(losses=[1.0]),
            "a loss that is no number": with_values(losses=[1.0, "1"]),
            "a loss that is too large": with_values(losses=[1.0, 1e301]),
            "no losses": with_values(losses=None),
        },
        requests=_CANDIDATES,
    ),
    "probes": Case(
        lambda model: Probes(_weights(model), 0.01, 2, seed=4),
        damages={
            "more examples than were asked for": with_values(examples=129),
            "a slope that is too steep": with_tensor("probes/slopes", _set((0, 0), -2e30)),
        },
        requests={
            **_UNKNOWN,
            "no step": with_values(epsilon=0.0),
            "of no probe": with_values(probes=0),
            "of no examples": with_values(most=0),
        },
    ),
    "ranges": Case(
        _graph,
        damages={
            "a range without zero": with_tensor("ranges", _set((1, 0), 0.5)),
            "low above high": with_tensor("ranges", lambda found: found[:, ::-1]),
        },
        requests={
            "no graph": with_values(graph={}),
            "a graph of nothing known": with_values(graph={"operations": [{"kind": "Exec"}]}),
        },
    ),
    "scaled_gradients": Case(
        lambda model: Scaled(_weights(model), {"2.weight": np.array([0.25, 1.0, 0.5]).reshape(3, 1, 1, 1)}),
        damages={"of no examples": with_values(examples=0)},
        requests=_UNKNOWN,
    ),
    "similarity": Case(
        lambda model: Without([["2.weight"], ["0.weight", "2.weight"]], "5.weight", 64),
        damages={
            "a square below 0": with_tensor("similarity/sums", _set((0, 0, 1, 1), -1)),
            "a sum that is too large": with_tensor("similarity/sums", _set((0, 2, 1, 1), 1e16)),
            "more examples than were asked for": with_values(examples=65),
        },
        requests={
            "a layer that the model lacks": with_values(candidates=[["9.weight"]]),
            "no candidate": with_values(candidates=[]),
            "features of a convolution": with_values(last="2.weight"),
            "features of nothing": with_values(last="9.weight"),
            "of no examples": with_values(most=0),
        },
    ),
    "top_gradients": Case(
        lambda model: {name: int(np.count_nonzero(~mask)) for name, mask in model.masks.items()},
        by_batch=True,
        damages={
            "of no examples": with_values(examples=0),
            "a kept position": with_tensor("at/0.weight", lambda at: ~at),
        },
        requests={
            "a layer without a mask": with_values(counts={"0.bias": 1}),
            "no layer": with_values(counts={}),
            "a negative count": with_values(counts={"0.weight": -1}),
        },
    ),
}
