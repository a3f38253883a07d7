"""Reference nets by name, and the door through which a user's own net comes in. torch loads when a net is built."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from fedprune.models import draws

if TYPE_CHECKING:
    import torch
    from torch import nn

CATALOGUE: Mapping[str, str] = {
    "digits_cnn": "fedprune.models.digits:digits_cnn",
    "dscnn": "fedprune.models.dscnn:dscnn",
    "har_cnn": "fedprune.models.har:har_cnn",
    "mobilenet": "fedprune.models.mobilenet:mobilenet",
    "resnet8": "fedprune.models.resnet:resnet8",
    "resnet18": "fedprune.models.resnet:resnet18",
    "resnet20": "fedprune.models.resnet:resnet20",
    "vgg11": "fedprune.models.vgg:vgg11",
}
"""Name -> "module:function"; each function takes (input_shape, classes) and returns a torch.nn.Module."""


class ModelError(ValueError):
    """A model cannot be had as asked; the one line names the culprit and what is expected."""


class Slot(NamedTuple):
    """What the state of a net holds under one name."""

    shape: tuple[int, ...]
    dtype: str
    """As numpy calls it."""
    nbytes: int
    trained: bool
    """Whether it is a parameter; else it is a buffer."""


@functools.lru_cache(maxsize=8)
def slots(name: str, input_shape: tuple[int, ...], classes: int) -> Mapping[str, Slot]:
    """What the state of ``build(...)`` will hold, for next to no time and memory. ModelError for an unknown name."""
    import torch

    function = _resolve(name)
    try:
        with torch.device("meta"), draws.seeded(0):
            model = function(input_shape=input_shape, classes=classes)
        assert isinstance(model, torch.nn.Module)
    except Exception:  # a net that computes with its weights while it is made
        model = build(name, input_shape, classes)
    trained = {key for key, _ in model.named_parameters()}
    return {
        key: Slot(tuple(value.shape), str(value.dtype).removeprefix("torch."), value.nbytes, key in trained)
        for key, value in model.state_dict().items()
    }


def build(name: str, input_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
    """Return a fresh net, in training mode, with torch's own random initial weights.

    Args:
        name: one of ``CATALOGUE``, or "my_package.nets:tiny", called as ``tiny(input_shape=..., classes=...)``.
        input_shape: one sample without its batch: (channels, height, width) or (channels, length).
        classes: number of logits.
        seed: decides the initial weights, and whatever else the function draws; no draw of the caller's is moved.

    Raises:
        ModelError: unknown name, or the net does not turn (2, *input_shape) into finite (2, classes) logits.
    """
    if classes < 1 or not input_shape or any(extent < 1 for extent in input_shape):
        raise ModelError(f"{name}: classes {classes} and every extent of input shape {input_shape} must be at least 1")
    function = _resolve(name)
    with draws.seeded(seed):
        try:
            model = function(input_shape=input_shape, classes=classes)
        except ModelError:
            raise
        except Exception as error:
            called = f"{name.rpartition(':')[2]}(input_shape={input_shape}, classes={classes})"
            raise ModelError(f"{name}: {called} failed: {_line(error)}") from error
        return checked(name, _taking_floats(model), input_shape, classes)


def _taking_floats(model: object) -> object:
    """``model``, whose embeddings take tokens as the whole floats that every input travels as."""
    from torch import nn

    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(_whole)
    return model


def _whole(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(each.long() if each.is_floating_point() else each for each in inputs)


def _resolve(name: str) -> Callable[..., object]:
    module_name, colon, function_name = CATALOGUE.get(name, name).partition(":")
    if not (module_name and colon and function_name):
        raise ModelError(
            f'{name}: no such model; known are {", ".join(CATALOGUE)}, or your own as "package.module:function"'
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ModelError(f"{name}: module {module_name} does not import: {_line(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(f"{name}: {module_name} has no function {function_name}(input_shape, classes)")
    return function  # type: ignore[no-any-return]


def checked(name: str, model: object, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """``model``, if it turns (2, *input_shape) into finite (2, classes) logits; else ModelError.

    Maps (2, classes, ...) and sequences (2, ..., classes) of logits will do as well, and one logit of two classes.
    """
    import torch
    from torch import nn

    if not isinstance(model, nn.Module):
        raise ModelError(f"{name}: returned {type(model).__name__}, expected a torch.nn.Module")
    batch = torch.rand((2, *input_shape), generator=torch.Generator().manual_seed(0))
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(batch)
    except Exception as error:
        raise ModelError(f"{name}: forward of a batch shaped {tuple(batch.shape)} failed: {_line(error)}") from error
    finally:
        model.train(training)
    if not isinstance(logits, torch.Tensor):
        raise ModelError(f"{name}: forward returned {type(logits).__name__}, expected logits shaped (2, {classes})")
    if not _fits(tuple(logits.shape), classes):
        raise ModelError(f"{name}: logits have shape {tuple(logits.shape)}, expected (2, {classes})")
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(f"{name}: logits of a fresh model are not finite, expected finite (2, {classes})")
    return model


def _fits(shape: tuple[int, ...], classes: int) -> bool:
    counts = (classes, 1) if classes == 2 else (classes,)
    return shape[:1] == (2,) and len(shape) > 1 and (shape[1] in counts or (len(shape) > 2 and shape[-1] == classes))


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
