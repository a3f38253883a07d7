"""Rewrites of a graph that keep its function: batch norm folded, activations and padding fused. All are pure."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from fedprune.graph.activations import Add, Bounded, Clip, Constant, Narrow, Softmax
from fedprune.graph.moving import Concat, Pad, Permute, Reshape, Slice
from fedprune.graph.norms import spelled
from fedprune.graph.operations import (
    FREE,
    AvgPool,
    BatchNorm,
    Bounds,
    Conv2d,
    Dropout,
    GlobalMean,
    Graph,
    Linear,
    MaxPool,
    Operation,
    Parameter,
    Shape,
    consumers,
    producers,
)
from fedprune.types import FloatTensor


def inference(graph: Graph) -> Graph:
    """Return the graph as it is deployed: masks bounded, batch norms folded, other norms spelled out, and fused."""
    return fuse(spelled(fold_batch_norm(hide(graph))))


def without_dropout(graph: Graph) -> Graph:
    """Return the graph at rest: whoever reads the result of a `Dropout` reads what that reads."""
    source: dict[str, str] = {}
    kept: list[Operation] = []
    for op in graph.operations:
        inputs = tuple(source.get(name, name) for name in op.inputs)
        if isinstance(op, Dropout):
            source[op.output] = inputs[0]
        else:
            kept.append(op if inputs == op.inputs else replace(op, inputs=inputs))
    outputs = tuple(source.get(name, name) for name in graph.outputs)
    shapes = {name: shape for name, shape in graph.shapes.items() if name not in source}
    modules = {name: module for name, module in graph.modules.items() if name not in source}
    return Graph(graph.input, outputs, tuple(kept), shapes, modules)


def hide(graph: Graph) -> Graph:
    """Return the graph with no less than ``HIDDEN`` added to the scores of a softmax.

    That hides a place as well as minus infinity does, and leaves the others steps of their 8 bits.
    """
    made, readers = producers(graph), consumers(graph)
    masks = dict[str, Constant]()
    for op in graph.operations:
        before = op.inputs[0] if isinstance(op, Softmax) else ""
        while isinstance(made.get(before), Reshape | Permute | Add):
            found = [each for each in (made.get(name) for name in made[before].inputs) if isinstance(each, Constant)]
            masks |= {mask.output: mask for mask in found if len(readers[mask.output]) == 1}
            before = next((name for name in made[before].inputs if not isinstance(made.get(name), Constant)), "")
    for mask in masks.values():
        value = Parameter(mask.value.name, np.maximum(mask.value.value, HIDDEN))
        graph = _rebuilt(graph, {mask.output: (replace(mask, value=value),)}, {})
    return graph


HIDDEN = np.float32(-16.0)
"""Added to what a position must not see: its share is then below an int8 step, whatever the other scores are."""


def fold_batch_norm(graph: Graph) -> Graph:
    """Return the graph with every `BatchNorm` folded into the convolution or linear layer that feeds it alone.

    ``W' = W s`` and ``b' = (b - mean) s + beta`` with ``s = gamma / sqrt(variance + epsilon)``. One that follows
    anything else (an addition, say) becomes a depthwise convolution of one cell, whose weight keeps the norm's name:
    folded into what reads it, a channel of little variance would take the int8 range of all the others.
    """
    return _until_done(graph, _fold_one)


def fuse(graph: Graph) -> Graph:
    """Return the graph with fewer operations and the same outputs.

    Activations go into the operation before them, through a max-pool where that lets them in; zero padding goes into
    the convolution that reads it; an average over the whole map is a `GlobalMean`, which takes in a flatten after it;
    a slice of one part of a concatenation reads that part.
    """
    for rule in (_clip_one, _pad_one, _mean_one, _reshape_one, _slice_one):
        graph = _until_done(graph, rule)
    return graph


def settle(graph: Graph) -> Graph:
    """Return the graph with a constant, its bias, in the place of each layer of zeros that only sums read.

    So a residual branch without weights is gone. Batch norms are to be folded before.
    """
    return _until_done(graph, _settle_one)


def _until_done(graph: Graph, rule: Callable[[Graph], Graph | None]) -> Graph:
    while (changed := rule(graph)) is not None:
        graph = changed
    return graph


def _only_reader(graph: Graph, name: str, readers: Mapping[str, tuple[Operation, ...]]) -> bool:
    return len(readers[name]) == 1 and name not in graph.outputs


def _rebuilt(graph: Graph, changed: Mapping[str, tuple[Operation, ...]], shapes: Mapping[str, Shape]) -> Graph:
    # `changed`: output of an operation -> what takes its place. What nothing reads any more is dropped.
    operations = [new for op in graph.operations for new in changed.get(op.output, (op,))]
    needed = set(graph.outputs)
    kept: list[Operation] = []
    for op in reversed(operations):
        if op.output in needed:
            needed.update(op.inputs)
            kept.append(op)
    known = {**graph.shapes, **shapes}
    names = [graph.input, *(op.output for op in reversed(kept))]
    return Graph(graph.input, graph.outputs, tuple(reversed(kept)), {name: known[name] for name in names})


def _fold_one(graph: Graph) -> Graph | None:
    made, readers = producers(graph), consumers(graph)
    for norm in graph.operations:
        if not isinstance(norm, BatchNorm):
            continue
        scale, shift = _affine(norm)
        before = made.get(norm.inputs[0])
        if (
            isinstance(before, Conv2d | Linear)
            and before.bounds == FREE
            and _only_reader(graph, before.output, readers)
        ):
            weight = before.weight.value * scale.reshape(-1, *[1] * (before.weight.value.ndim - 1))
            old = before.bias.value if before.bias is not None else 0.0
            bias = _named(before.bias or norm.bias, f"{before.weight.name}.bias", old * scale + shift)
            kept = replace(before, weight=_named(before.weight, "", weight), bias=bias, output=norm.output)
            return _rebuilt(graph, {before.output: (kept,), norm.output: ()}, {})
        return _rebuilt(graph, *_as_convolution(graph, norm, scale, shift))
    return None


def _affine(norm: BatchNorm) -> tuple[FloatTensor, FloatTensor]:
    deviation = np.sqrt(norm.variance.value.astype(np.float64) + norm.epsilon)
    scale = (1.0 if norm.weight is None else norm.weight.value.astype(np.float64)) / deviation
    shift = (0.0 if norm.bias is None else norm.bias.value.astype(np.float64)) - norm.mean.value * scale
    return scale, shift


def _named(old: Parameter | None, otherwise: str, value: FloatTensor) -> Parameter:
    return Parameter(old.name if old is not None else otherwise, value.astype(np.float32))


def _as_convolution(
    graph: Graph, norm: BatchNorm, scale: FloatTensor, shift: FloatTensor
) -> tuple[dict[str, tuple[Operation, ...]], dict[str, Shape]]:
    channels, shape = len(scale), graph.shapes[norm.output]
    weight = _named(norm.weight, norm.mean.name, scale.reshape(-1, 1, 1, 1))
    bias = _named(norm.bias, f"{norm.mean.name}.bias", shift)
    plain = (weight, bias, (1, 1), ((0, 0), (0, 0)), (1, 1), channels)
    if len(shape) == 4:
        return {norm.output: (Conv2d(norm.inputs, norm.output, *plain),)}, {}
    wide, done = f"{norm.output}.map", f"{norm.output}.scaled"
    steps = (
        Reshape(norm.inputs, wide),
        Conv2d((wide,), done, *plain),
        Reshape((done,), norm.output),
    )
    return {norm.output: steps}, {wide: (1, channels, 1, 1), done: (1, channels, 1, 1)}


def _settle_one(graph: Graph) -> Graph | None:
    readers = consumers(graph)
    for op in graph.operations:
        if not isinstance(op, Conv2d | Linear) or op.weight.value.any() or op.output in graph.outputs:
            continue
        sums = readers[op.output]
        # the other side says how large the sum is
        others = [name for each in sums for name in each.inputs if name != op.output]
        whole = graph.shapes[op.output]
        if not all(isinstance(each, Add) for each in sums) or [graph.shapes[name] for name in others] != [whole] * len(
            sums
        ):
            continue
        bias = np.zeros(len(op.weight.value), np.float32) if op.bias is None else op.bias.value
        shape = (1, -1, 1, 1) if isinstance(op, Conv2d) else (*[1] * (len(whole) - 1), -1)
        value = np.clip(bias, op.bounds.low, op.bounds.high).astype(np.float32).reshape(shape)
        constant = Constant((), op.output, _named(op.bias, f"{op.weight.name}.bias", value))
        return _rebuilt(graph, {op.output: (constant,)}, {op.output: value.shape})
    return None


def _clip_one(graph: Graph) -> Graph | None:
    made, readers = producers(graph), consumers(graph)
    for clip in graph.operations:
        if not isinstance(clip, Clip):
            continue
        before = made.get(clip.inputs[0])
        if isinstance(before, Narrow) and _only_reader(graph, before.output, readers):
            wide = made.get(before.inputs[0])
            if isinstance(wide, Bounded) and _only_reader(graph, wide.output, readers):
                bounded = replace(wide, bounds=_both(wide.bounds, clip.bounds), output=f"{wide.output}.clipped")
                narrow = replace(before, inputs=(bounded.output,), output=clip.output)
                moved: dict[str, tuple[Operation, ...]] = {
                    wide.output: (bounded,), before.output: (narrow,), clip.output: (),
                }  # fmt: skip
                return _rebuilt(graph, moved, {bounded.output: graph.shapes[wide.output]})
        if not isinstance(before, Bounded | Clip) or not _only_reader(graph, clip.inputs[0], readers):
            continue
        first = made.get(before.inputs[0])
        if (  # both orders give the same; before the pool the activation costs nothing
            isinstance(before, MaxPool)
            and isinstance(first, Bounded)
            and not isinstance(first, MaxPool)
            and _only_reader(graph, first.output, readers)
        ):
            clipped = f"{first.output}.clipped"
            changed: dict[str, tuple[Operation, ...]] = {
                first.output: (replace(first, output=clipped, bounds=_both(first.bounds, clip.bounds)),),
                before.output: (replace(before, inputs=(clipped,), output=clip.output),),
                clip.output: (),
            }
            return _rebuilt(graph, changed, {clipped: graph.shapes[first.output]})
        fused = replace(before, output=clip.output, bounds=_both(before.bounds, clip.bounds))
        return _rebuilt(graph, {before.output: (fused,), clip.output: ()}, {})
    return None


def _both(first: Bounds, second: Bounds) -> Bounds:
    return Bounds(max(first.low, second.low), min(first.high, second.high))


def _pad_one(graph: Graph) -> Graph | None:
    made = producers(graph)
    for conv in graph.operations:
        pad = made.get(conv.inputs[0]) if isinstance(conv, Conv2d) else None
        if not isinstance(conv, Conv2d) or not isinstance(pad, Pad) or pad.padding[:2] != ((0, 0), (0, 0)):
            continue
        rows, columns = (
            (ours[0] + theirs[0], ours[1] + theirs[1])
            for ours, theirs in zip(conv.padding, pad.padding[2:], strict=True)
        )
        return _rebuilt(graph, {conv.output: (replace(conv, inputs=pad.inputs, padding=(rows, columns)),)}, {})
    return None


def _slice_one(graph: Graph) -> Graph | None:
    made = producers(graph)
    for op in graph.operations:
        joined = made.get(op.inputs[0]) if isinstance(op, Slice) else None
        if not isinstance(op, Slice) or not isinstance(joined, Concat) or joined.axis != op.axis:
            continue
        first = 0
        for name in joined.inputs:
            size = graph.shapes[name][op.axis]
            start, stop = op.start - first, op.stop - first
            if (start, stop, op.step) == (0, size, 1):
                return _rebuilt(graph, {op.output: (Reshape((name,), op.output),)}, {})
            if start >= 0 and stop <= size:
                return _rebuilt(graph, {op.output: (replace(op, inputs=(name,), start=start, stop=stop),)}, {})
            first += size
    return None


def _mean_one(graph: Graph) -> Graph | None:
    for op in graph.operations:
        if isinstance(op, AvgPool) and op.bounds == FREE and op.kernel == graph.shapes[op.inputs[0]][2:]:
            return _rebuilt(graph, {op.output: (GlobalMean(op.inputs, op.output),)}, {})
    return None


def _reshape_one(graph: Graph) -> Graph | None:
    made, readers = producers(graph), consumers(graph)
    for op in graph.operations:
        before = made.get(op.inputs[0]) if isinstance(op, Reshape) else None
        if not isinstance(op, Reshape) or not _only_reader(graph, op.inputs[0], readers):
            continue
        flat = len(graph.shapes[op.output]) == 2
        if isinstance(before, Reshape) or (isinstance(before, GlobalMean) and flat):
            return _rebuilt(graph, {before.output: (), op.output: (replace(before, output=op.output),)}, {})
    return None
