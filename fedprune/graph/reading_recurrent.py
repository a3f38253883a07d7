"""How aten's recurrent operations are read: an operation for each layer and direction, and what is taken of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fedprune.graph.calls import Call, Step, plain_shape
from fedprune.graph.moving import Concat, Reshape, Slice
from fedprune.graph.operations import Operation, Parameter, Shape
from fedprune.graph.recurrent import Gru, Lstm, Rnn

_Kind = Callable[..., Operation]


def recurrent(call: Call, given: Mapping[str, Any], index: int, shapes: Sequence[Shape]) -> tuple[Step, ...] | str:
    """A result of aten's gru, lstm, rnn_tanh or rnn_relu: the last layer's states, the last states, the cells."""
    parent = call.arguments["source"]
    parts = {user.args[1]: user for user in parent.users}
    if index and not parts[index].users:
        return call.named(given["input"])  # anything will do: nobody reads it
    if index > 1:
        raise call.unsupported("gives its last cell state, which is not covered")
    _check(call, given, parent.target._schema.name)
    whole = parts[0].name if 0 in parts else f"{parent.name}.states"
    steps, ends = _layers(call, given, whole, _kind(parent.target._schema.name))
    if whole in call.shapes:
        steps = []
    if index == 0:
        return (*steps,)
    last: list[str] = []
    for place, (name, reverse, count, states) in enumerate(ends):
        at = 0 if reverse else count - 1
        last.append(call.output if len(ends) == 1 else f"{call.output}.last{place}")
        steps.append((Slice((name,), last[-1], 1, at, at + 1, 1), (1, 1, 1, states)))
    if len(ends) > 1:
        steps.append(Concat((*last,), call.output, 0))
    return (*steps,)


def _kind(name: str) -> _Kind:
    plain = name.removeprefix("aten::")
    if plain == "gru":
        return Gru
    if plain == "lstm":
        return Lstm
    return partial(Rnn, nonlinearity=plain.removeprefix("rnn_"))


def _check(call: Call, given: Mapping[str, Any], name: str) -> None:
    hidden = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    for node in hidden:
        value = call.constant(node)
        if value is None or value.value.any():
            raise call.unsupported(f"of {name} begins with states other than zeros, which is not covered")
    each = 4 if given["has_biases"] else 2
    if len(given["params"]) != each * given["num_layers"] * (1 + given["bidirectional"]):
        raise call.unsupported(f"of {name} has projections, which are not covered")


_End = tuple[str, bool, int, int]
"""(states of all steps, whether the first is the last computed, steps, values of a state)"""


def _layers(call: Call, given: Mapping[str, Any], whole: str, kind: _Kind) -> tuple[list[Step], list[_End]]:
    """The steps that make ``whole``, and what each layer and direction makes."""
    steps, ends = list[Step](), list[_End]()
    source = call.named(given["input"])
    plain = plain_shape(given["input"])
    count = plain[1 if given["batch_first"] else 0]
    if not given["batch_first"]:  # a batch of one: the values lie as they would with the batch first
        steps.append((Reshape((source,), f"{whole}.steps"), (1, count, 1, plain[2])))
        source = f"{whole}.steps"
    each, directions = 4 if given["has_biases"] else 2, 1 + int(given["bidirectional"])
    layers = int(given["num_layers"])
    for layer in range(layers):
        result = whole if layer == layers - 1 and given["batch_first"] else f"{whole}.layer{layer}"
        names = [result] if directions == 1 else [f"{result}.forward", f"{result}.backward"]
        for place, name in enumerate(names):
            at = each * (directions * layer + place)
            values = [_parameter(call, node) for node in given["params"][at : at + each]]
            weights = (*values, *[None] * (4 - each))
            states = values[1].value.shape[1]
            steps.append((kind((source,), name, *weights, bool(place)), (1, count, 1, states)))
            ends.append((name, bool(place), count, states))
        if directions > 1:
            steps.append((Concat((*names,), result, 3), (1, count, 1, directions * states)))
        source = result
    if not given["batch_first"]:
        steps.append((Reshape((source,), whole), (count, 1, 1, directions * states)))
    return steps, ends


def _parameter(call: Call, node: Any) -> Parameter:
    found = call.constant(node)
    if found is None:
        raise call.unsupported("has weights that depend on the input")
    return found


RECURRENT = dict.fromkeys(("gru", "lstm", "rnn_tanh", "rnn_relu"), recurrent)
