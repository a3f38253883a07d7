"""The second way to a .tflite file, through litert-torch: for nets with operations that the graph has no word for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileTensor, pack
from fedprune.export.litert.folding import CHANNEL_AXIS
from fedprune.export.litert.interpreter import Port, arrange
from fedprune.export.litert.mending import mended
from fedprune.export.litert.quantise import Affine, affine, weight_scales
from fedprune.export.litert.reader import operator_name, read
from fedprune.export.litert.runtime import keeping_all
from fedprune.export.stderr import caught
from fedprune.graph import UnsupportedOperation
from fedprune.types import FloatTensor, Tensor

if TYPE_CHECKING:
    from torch import nn

_Result = TypeVar("_Result")
_Range = tuple[FloatTensor, FloatTensor]


class Converted(NamedTuple):
    """A model as .tflite files, shaped as those of `write_float` and `write_int8`: a batch of one, channels last."""

    litert_float: bytes
    """All in float32."""
    litert_int8: bytes
    """Int8 in, int8 out; what has no integer kernel stays float inside, between DEQUANTIZE and QUANTIZE."""


def convert(model: nn.Module, inputs: Tensor) -> Converted:
    """Return the .tflite files of ``model`` in evaluation mode; the model itself is left as it was.

    ``inputs`` ``(n, C, H, W)``, ``(n, C, L)`` or ``(n, F)`` give the ranges of activations: their true extremes.

    Raises ``UnsupportedOperation`` for a model that cannot be converted, ``ValueError`` for no inputs or values that
    are not finite, and ``RuntimeError`` where litert-torch is not installed.
    """
    if len(inputs) == 0:
        raise ValueError("calibration needs at least one input")
    _load()
    file = _float_file(model, inputs[:1])
    # The quantiser goes by names.
    named = replace(file, tensors=[replace(tensor, name=f"t{at}") for at, tensor in enumerate(file.tensors)])
    content = pack(named)
    extremes = _extremes(content, named, inputs)
    quantised = _quietly(lambda: _quantised(content, {**extremes, **_weight_ranges(named, extremes)}))
    return Converted(pack(_with_ends_named(file)), pack(_with_ends_named(quantised)))


def _load() -> None:
    def load() -> Any:
        import ai_edge_quantizer  # noqa: F401
        import litert_torch

        return litert_torch

    try:
        converter, _ = caught(load)
    except ImportError as error:
        raise RuntimeError(
            "no litert-torch to convert the model with: `pip install 'fedprune[converter]'` (x86-64 Linux only)"
        ) from error
    converter.config.show_progress = False


def _quietly(action: Callable[[], _Result]) -> _Result:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return caught(action)[0]
    except Exception as error:  # whatever a converter raises of itself, it is the model that it cannot take
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UnsupportedOperation(f"litert-torch cannot convert the model: {lines[0]}") from error


def _float_file(model: nn.Module, example: Tensor) -> File:
    import litert_torch
    import torch

    modes = [(module, module.training) for module in model.modules()]
    like = next(model.parameters(), torch.zeros(()))
    sample = torch.as_tensor(example).detach().to(like.device, like.dtype)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # conversion draws random numbers
            result = model.eval()(sample)
            if not isinstance(result, torch.Tensor):
                raise UnsupportedOperation(f"the model gives a {type(result).__name__}; only one tensor is converted")
            ends = {"args": [0] if sample.ndim > 2 else [], "outputs": [0] if result.ndim > 2 else []}
            last = torch.movedim(sample, 1, -1).contiguous() if sample.ndim > 2 else sample
            wrapped = litert_torch.to_channel_last_io(model, **ends).eval()
            content = _quietly(lambda: litert_torch.convert(wrapped, (last,)).model_content())
    finally:
        for module, training in modes:
            module.training = training
    return _quietly(lambda: mended(_without_names(read(bytes(content)))))


def _extremes(content: bytes, file: File, inputs: Tensor) -> dict[str, _Range]:
    """Return the least and the largest value of every activation; the quantiser would take a moving average of them."""
    interpreter = _quietly(lambda: keeping_all(content))
    places = [at for at, tensor in enumerate(file.tensors) if tensor.data is None]
    low, high = np.zeros(len(file.tensors), np.float32), np.zeros(len(file.tensors), np.float32)
    for sample in arrange(inputs, Port(file.tensors[file.inputs[0]].shape, None)):
        interpreter.set_tensor(file.inputs[0], sample[None])
        interpreter.invoke()
        for at in places:
            values = interpreter.get_tensor(at)
            low[at], high[at] = min(low[at], values.min()), max(high[at], values.max())
            if not np.isfinite((values.min(), values.max())).all():
                raise ValueError("the model's activations are not finite on the calibration inputs")
    ones = {at: (1,) * len(file.tensors[at].shape) for at in places}
    return {file.tensors[at].name: (low[at].reshape(ones[at]), high[at].reshape(ones[at])) for at in places}


def _weight_ranges(file: File, ranges: dict[str, _Range]) -> dict[str, _Range]:
    """Return the range that gives each row of a convolution the scale it would have in `write_int8`.

    The quantiser's own scale of a row that pruning has emptied is so small that the row's bias saturates.
    """
    found: dict[str, _Range] = {}
    for operator in file.operators:
        axis = CHANNEL_AXIS.get(operator_name(operator))
        source, *constants = (file.tensors[index] for index in operator.inputs if index >= 0)
        if axis is None or len(constants) != 2:
            continue
        weight, bias = constants
        if weight.data is None or bias.data is None:
            continue
        rows = np.moveaxis(weight.data, axis, 0).reshape(weight.shape[axis], -1)
        grids = (_grid(ranges, source), _grid(ranges, file.tensors[operator.output]))
        limit = 127 * weight_scales(rows, bias.data, *grids)
        limit = limit.reshape([-1 if each == axis else 1 for each in range(4)])
        if weight.name in found:  # several layers share the weight
            limit = np.maximum(limit, found[weight.name][1])
        found[weight.name] = (-limit, limit)
    return found


def _grid(ranges: dict[str, _Range], tensor: FileTensor) -> Affine:
    low, high = ranges[tensor.name]
    return affine(float(low.min()), float(high.max()))


def _quantised(content: bytes, ranges: dict[str, _Range]) -> File:
    from ai_edge_quantizer import quantizer, recipe

    extremes = {name: {"min": low, "max": high} for name, (low, high) in ranges.items()}
    quantiser = quantizer.Quantizer(content, recipe.static_wi8_ai8())
    return read(bytes(quantiser.quantize(extremes, enable_progress_report=False).quantized_model))


def _without_names(file: File) -> File:
    return replace(file, tensors=[replace(tensor, name="") for tensor in file.tensors])


def _with_ends_named(file: File) -> File:
    names = {file.inputs[0]: "input", **{at: f"output{n or ''}" for n, at in enumerate(file.outputs)}}
    tensors = [replace(tensor, name=names.get(at, "")) for at, tensor in enumerate(file.tensors)]
    return replace(file, tensors=tensors)
