"""What a task is: a loss, a metric with its direction, and what labels and outputs it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fedprune.types import Tensor

if TYPE_CHECKING:
    import torch

Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""(outputs, labels), n examples of each -> scalar."""


class Metric(NamedTuple):
    """What a number says, and which of two is better."""

    name: str
    """Singular, such as mean absolute error."""
    unit: str = ""
    """``%`` of a share, which is 0 to 1 wherever it is stored; else the unit of the values, if they have one."""
    higher: bool = True
    """Whether more is better."""

    def text(self, value: float | None, digits: int = 2) -> str:
        """``value`` for people: a share with so many ``digits`` of its percent, another with four significant ones."""
        if value is None:
            return "not tested"
        return f"{self.plain(value, digits)} {self.unit}".rstrip()

    @property
    def title(self) -> str:
        """The name as it begins a line."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def label(self) -> str:
        """Name and unit, as over a column or beside an axis."""
        return ", ".join(filter(None, (self.name, self.unit)))

    def scaled(self, value: float) -> float:
        """As it is drawn: a share in percent."""
        return 100 * value if self.unit == "%" else value

    def plain(self, value: float, digits: int = 2) -> str:
        """As `text`, without the unit."""
        return f"{self.scaled(value):.{digits}f}" if self.unit == "%" else f"{value:.4g}"

    def apart(self, gain: float, half: float) -> str:
        """How much better one is than another, with what lies to either side: points of a share."""
        return f"{self.scaled(gain if self.higher else -gain):+.3g} ± {self.scaled(half):.2g}"

    def better(self, one: float, other: float) -> bool:
        """Whether ``one`` is better than ``other``; what is no number is worse than all."""
        if math.isnan(one) or math.isnan(other):
            return not math.isnan(one)
        return one > other if self.higher else one < other


ACCURACY = Metric("accuracy", "%")


SAME_CLASS = Metric("same class as torch", "%")


OF_CLASSES = ("softmax", "log-softmax", "sigmoid")
"""What a net of classes may end in."""


class Task(NamedTuple):
    """What a model is for. Outputs and labels are numpy arrays, but in a loss."""

    loss: Loss
    """What training minimises: the mean over the examples."""
    metric: Metric
    sums: Callable[[Tensor, Tensor], Mapping[str, float]]
    """(outputs, labels), n examples of each -> sums over them, under ``names``: those of devices add up."""
    labels: Callable[[Tensor, int], Tensor]
    """(labels as data gives them, number of the model's outputs) -> labels (n, ...), int64 or float32, as the loss
    wants them. ValueError, what would be right."""
    outputs: Callable[[int, tuple[int, ...]], Sequence[tuple[int, ...]]]
    """(number of outputs, shape of one label) -> shapes, one of which the outputs of an example should have."""
    agree: Callable[[Tensor, Tensor], float]
    """(outputs of one form of a model, outputs of another) -> sum over the examples of ``agreement``."""
    agreement: Metric
    """How two forms of a model are compared, such as the share of examples of the same class."""
    names: tuple[str, ...] = ("score",)
    """Of the sums."""
    value: Callable[[Mapping[str, float]], float] = lambda sums: sums["score"] / sums["seen"]
    """Sums of all examples, with their number as ``seen`` -> the metric."""
    most: float = math.inf
    """That one example may add to a sum; a reply with more is refused."""
    error: Loss | None = None
    """What models are compared by and a log shows, summed over the examples; None is the loss as it is trained."""
    counted: Callable[[Tensor], int] | None = None
    """Labels, as data gives them without names of outputs -> how many outputs; None where the labels that occur are
    the names, of classes or of a vocabulary."""
    classes: bool = False
    """Whether each example has one class, by which data can be dealt, and the outputs are logits of classes."""
    tokens: bool = False
    """Whether inputs are integer tokens (n, T), which no mean or standard deviation is taken of."""
    ends: tuple[str, ...] = ()
    """What a net is made to give the logits of where it ends in it: softmax, log-softmax, sigmoid. Beside softmax, a
    sigmoid of one output alone."""


class Given(NamedTuple):
    """What a task is told of the data and the experiment; one of one's own is told nothing."""

    smoothing: float = 0.0
    """Of one-hot labels (Szegedy et al., 2016, section 7)."""
    weights: tuple[float, ...] = ()
    """Of each class in the loss; empty is 1."""
    mean: tuple[float, ...] = ()
    """Of each target, numbers to predict; empty is 0. Outputs are (target − mean) / std."""
    std: tuple[float, ...] = ()
    """Of each target; empty is 1."""


def total(task: Task, outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """The error, summed over the examples."""
    if task.error is not None:
        return task.error(outputs, labels).item()
    return task.loss(outputs, labels).item() * len(labels)


def zeros(task: Task) -> dict[str, float]:
    """The sums over no example."""
    return dict.fromkeys(task.names, 0)


def added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Sums over the examples of both."""
    return {name: one[name] + other[name] for name in one}


def entry(metric: Metric, **values: float | None) -> dict[str, Any]:
    """What a log or a result says of a metric: ``accuracy`` by that name, another with its name, unit and direction.

    Keywords end the names of keys; ``value`` is a key without an end.

    >>> entry(ACCURACY, value=0.5)
    {'accuracy': 0.5}
    >>> entry(Metric("mean absolute error", higher=False), int8=0.25)
    {'metric': {'name': 'mean absolute error', 'unit': '', 'higher': False}, 'value_int8': 0.25}
    """
    named = {"" if end == "value" else f"_{end}": value for end, value in values.items()}
    if metric == ACCURACY:
        return {f"accuracy{end}": value for end, value in named.items()}
    return {"metric": metric._asdict(), **{f"value{end}": value for end, value in named.items()}}


def agreement_in(table: Mapping[str, Any]) -> Metric:
    """How forms of a model are compared in a result."""
    return Metric(**table["agreement"]) if table.get("agreement") else SAME_CLASS


def value_key(metric: Metric) -> str:
    """The key under which `entry` has a value."""
    return "accuracy" if metric == ACCURACY else "value"


def metric_in(table: Mapping[str, Any]) -> Metric:
    """The metric that a log's line or a result is of."""
    return Metric(**table["metric"]) if table.get("metric") else ACCURACY


def value_in(table: Mapping[str, Any], end: str = "") -> float | None:
    """The metric's value there, under the key with that ``end``; None where there is none."""
    found: float | None = table.get(f"value_{end}" if end else "value")
    return table.get(f"accuracy_{end}" if end else "accuracy") if found is None else found
