"""What torch holds while it trains a graph: activations saved for the backward pass, their gradients, scratch space.

One simulated step: every tensor is counted as long as something refers to it, and no longer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import prod

from fedprune.graph import (
    RELU,
    Abs,
    Add,
    AvgPool,
    BatchNorm,
    Clip,
    Conv2d,
    Divide,
    Elu,
    Embedding,
    Exp,
    Gelu,
    Graph,
    GroupNorm,
    Gru,
    HardSwish,
    LayerNorm,
    LeakyRelu,
    Linear,
    LogSoftmax,
    Lstm,
    MatMul,
    Maximum,
    MaxPool,
    Minimum,
    Multiply,
    Operation,
    Parameter,
    Permute,
    PRelu,
    Recurrent,
    Reduce,
    Reshape,
    Rnn,
    Rsqrt,
    Sigmoid,
    Slice,
    Softmax,
    Tanh,
    TransposedConv2d,
    parameters,
)

_FLOAT, _INDEX = 4, 8
_OWN_PAGES = 2**25
"""glibc takes what is at least as large as this from the system, and gives it back when it is freed."""
_OF_STEPS = {Gru: 7, Lstm: 18, Rnn: 1}
"""States' worth of bytes that torch keeps for each step of a recurrent layer, besides its states, measured."""
Held = Mapping[str, int]
"""Storage -> bytes."""


@dataclass
class Step:
    """One pass forwards and backwards, as it goes; ``peak`` is the most that was held at once, in bytes."""

    graph: Graph
    batch: int
    sparse: Mapping[str, int] = field(default_factory=dict)
    """Kept weights of each parameter that exists whole only while its layer computes."""
    accumulates: bool = False
    """Whether gradients of an earlier micro-batch are already there."""
    one_gradient: bool = False
    """Whether each gradient is dropped as soon as it is there."""
    holes: float = 0.0
    """Room lost in glibc's heap, per byte of the activations in it."""
    peak: int = 0
    gradients: int = 0
    """Bytes of the parameters' gradients at the peak."""

    def run(self, blocks: Sequence[str] = ()) -> "Step":
        """Simulate a step in which ``blocks``, dotted names of modules, keep their input alone."""
        self._begin()
        units = [
            (block, tuple(ops)) for block, ops in groupby(self.graph.operations, lambda op: self._block(op, blocks))
        ]
        names = {p.name: p.value.size for op in self.graph.operations for p in self._trained(op)}
        self._made = sum(self._gradient(name, size) for name, size in names.items()) if self.accumulates else 0
        for block, ops in units:
            if block:
                self._saved.append(self._tensors(_read(ops)))
            self._forward(ops, keep=not block)
        for block, ops in reversed(units):
            if not block:
                self._backward(ops)
                continue
            self._forward(ops, keep=True)
            arriving = self._pending.get(self._alias[ops[-1].output], ("", 0))
            self._saved.insert(0, dict([arriving]))  # the block's own gradient waits until all of it is done
            self._backward(ops)
            del self._saved[0]
            self._saved.pop()
        return self

    def infer(self) -> "Step":
        """Simulate one pass forwards, without gradients."""
        self._begin()
        self._made = 0
        self._forward(self.graph.operations, keep=False)
        return self

    def _begin(self) -> None:
        self._alias = {self.graph.input: self.graph.input}
        for op in self.graph.operations:
            seen = isinstance(op, Reshape | Permute | Slice)  # torch, too, reads the same bytes another way
            self._alias[op.output] = self._alias[op.inputs[0]] if seen else op.output
        self._last = {name: place for place, op in enumerate(self.graph.operations) for name in op.inputs}
        paths: dict[str, list[Operation]] = {}
        for op in self.graph.operations:
            parts = self.graph.modules.get(op.output, "").split(".")
            for depth in range(len(parts)):
                paths.setdefault(".".join(parts[: depth + 1]), []).append(op)
        self._places = {op.output: place for place, op in enumerate(self.graph.operations)}
        self._saved: list[Held] = []
        self._pending: dict[str, tuple[str, int]] = {}
        for ops in paths.values():
            for name in _read(ops):  # an argument of a module's call lives until the call returns
                self._last[name] = max(self._last[name], self._places[ops[-1].output])

    def _block(self, op: Operation, blocks: Sequence[str]) -> str:
        module = self.graph.modules.get(op.output, "")
        return next((block for block in blocks if f"{module}.".startswith(f"{block}.")), "")

    def _forward(self, ops: Sequence[Operation], *, keep: bool) -> None:
        made: dict[str, int] = {}
        for op in ops:
            place = self._places[op.output]
            made = {n: b for n, b in made.items() if self._last.get(n, place) >= place}
            made |= self._tensors((*op.inputs, op.output))
            if keep:
                self._saved.append(self._saves(op))
            self._note(made, sum(self._scratch(op)[0]) + (0 if keep else _indices(op, self._bytes(op.output))))

    def _backward(self, ops: Sequence[Operation]) -> None:
        for op in reversed(ops):
            arriving = self._pending.pop(self._alias[op.output], ("", 0))
            leaving: dict[str, tuple[str, int]] = {}
            for name in op.inputs:
                target = self._alias[name]
                if target == self.graph.input:
                    continue
                shared = isinstance(op, Add | Reshape)
                storage = arriving if shared else (f"gradient of {name} in {op.output}", self._bytes(name))
                leaving[target] = storage
            weights = [(p.name, p.value.size) for p in self._trained(op)]
            whole = sum(_FLOAT * size for name, size in weights if name in self.sparse or self.accumulates)
            self._made += 0 if self.accumulates or self.one_gradient else sum(self._gradient(*w) for w in weights)
            temporary = whole if not self.one_gradient else sum(_FLOAT * size for _, size in weights)
            self._note(dict([arriving, *leaving.values()]), temporary + sum(self._scratch(op)[1]))
            self._saved.pop()
            for target, storage in leaving.items():
                # Two gradients of one tensor add up in the place of one of them.
                self._pending.setdefault(target, storage)

    def _note(self, held: Held, more: int) -> None:
        everything = dict(self._pending.values()) | dict(held)
        for saved in self._saved:
            everything |= saved
        in_heap = more + sum(size for size in everything.values() if size < _OWN_PAGES)
        total = sum(everything.values()) + more + int(self.holes * in_heap) + self._made
        if total > self.peak:
            self.peak, self.gradients = total, self._made

    def _trained(self, op: Operation) -> Iterator[Parameter]:
        return (p for p in parameters(op) if not isinstance(op, BatchNorm) or p not in (op.mean, op.variance))

    def _gradient(self, name: str, size: int) -> int:
        return _FLOAT * self.sparse.get(name, size)

    def _bytes(self, name: str) -> int:
        return self.batch * _FLOAT * prod(self.graph.shapes[name])

    def _tensors(self, names: Sequence[str]) -> dict[str, int]:
        return {self._alias[name]: self._bytes(name) for name in names}

    def _saves(self, op: Operation) -> Held:
        """What torch's autograd keeps of an operation."""
        if isinstance(op, _KEEPS_INPUTS):
            return self._tensors(op.inputs)
        if isinstance(op, Recurrent):
            steps = f"steps of {op.output}"
            return {**self._tensors((*op.inputs, op.output)), steps: _OF_STEPS[type(op)] * self._bytes(op.output)}
        if isinstance(op, Maximum | Minimum | Reduce) and getattr(op, "function", "max") != "mean":
            return self._tensors((*op.inputs, op.output))
        if isinstance(op, MaxPool):
            return {**self._tensors(op.inputs), f"indices of {op.output}": _indices(op, self._bytes(op.output))}
        if isinstance(op, Clip):
            return self._tensors((op.output,) if op.bounds == RELU else op.inputs)
        return self._tensors((op.output,)) if isinstance(op, _KEEPS_RESULT) else {}

    def _scratch(self, op: Operation) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(forwards, backwards) bytes that oneDNN's kernels take: operands in a layout of its own."""
        if not isinstance(op, Conv2d | Linear | TransposedConv2d):
            return (), ()
        weight = _FLOAT * op.weight.value.size
        whole = weight if op.weight.name in self.sparse else 0
        if isinstance(op, Linear):
            return (whole,), (whole,)
        if isinstance(op, Conv2d) and op.groups == op.weight.value.shape[0]:
            return (whole,), (whole,)
        # One-dimensional maps are not channels-last, so that both ends are copied as well.
        flat = op.weight.value.shape[2] == 1 and self.graph.shapes[op.inputs[0]][2] == 1
        ends = self._bytes(op.inputs[0]) + self._bytes(op.output) if flat else 0
        return (whole, weight, ends), (whole, 2 * weight, ends)


_KEEPS_INPUTS = (
    Conv2d, TransposedConv2d, Linear, MatMul, Embedding, BatchNorm, GroupNorm, LayerNorm, AvgPool, HardSwish, Gelu,
    LeakyRelu, PRelu, Abs, Multiply, Divide,
)  # fmt: skip
_KEEPS_RESULT = (Sigmoid, Tanh, Softmax, LogSoftmax, Elu, Exp, Rsqrt)


def _indices(op: Operation, output: int) -> int:
    return output // _FLOAT * _INDEX if isinstance(op, MaxPool) else 0


def _read(ops: Sequence[Operation]) -> tuple[str, ...]:
    # What a block reads that it does not make.
    made = {op.output for op in ops}
    return tuple(dict.fromkeys(name for op in ops for name in op.inputs if name not in made))
