"""Reference nets by name, and the door through which a user's own net comes in. torch loads when a net is built."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from fedprune import own_code
from fedprune.graph.shared import unique_state
from fedprune.models import as_is, draws, endings
from fedprune.tasks import CLASSIFICATION, Task

if TYPE_CHECKING:
    import torch
    from torch import nn

CATALOGUE: Mapping[str, str] = {
    "char_gru": "fedprune.models.chars:char_gru",
    "digits_cnn": "fedprune.models.digits:digits_cnn",
    "dscnn": "fedprune.models.dscnn:dscnn",
    "har_cnn": "fedprune.models.har:har_cnn",
    "har_gru": "fedprune.models.har:har_gru",
    "keyword_transformer": "fedprune.models.transformer:keyword_transformer",
    "mobilenet": "fedprune.models.mobilenet:mobilenet",
    "resnet8": "fedprune.models.resnet:resnet8",
    "resnet18": "fedprune.models.resnet:resnet18",
    "resnet20": "fedprune.models.resnet:resnet20",
    "shapes_unet": "fedprune.models.unet:shapes_unet",
    "swin": "fedprune.models.swin:swin",
    "vgg11": "fedprune.models.vgg:vgg11",
    "vit": "fedprune.models.transformer:vit",
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
    """Whether it is a parameter that training moves; else it is a buffer, or frozen."""


class Built(NamedTuple):
    """A fresh net, and what is to be said of how it was made plain."""

    model: nn.Module
    remarks: tuple[str, ...]


@functools.lru_cache(maxsize=8)
def slots(name: str, input_shape: tuple[int, ...], classes: int) -> Mapping[str, Slot]:
    """What the state of ``build(...)`` will hold, for next to no time and memory. ModelError for an unknown name."""
    import torch

    function = _resolve(name)
    try:
        with torch.device("meta"), draws.seeded(0):
            model = function(input_shape=input_shape, classes=classes)
        assert isinstance(model, torch.nn.Module)
        as_is.made_plain(model)
        return _slots(model)
    except Exception:  # a net that computes with its weights while it is made, or learns their shapes from data
        return _slots(build(name, input_shape, classes))


def _slots(model: nn.Module) -> dict[str, Slot]:
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    return {
        key: Slot(tuple(value.shape), str(value.dtype).removeprefix("torch."), value.nbytes, key in trained)
        for key, value in unique_state(model).items()
    }


def build(
    name: str, input_shape: tuple[int, ...], classes: int, seed: int = 0, task: Task = CLASSIFICATION
) -> nn.Module:
    """Return a fresh net, in training mode, with torch's own random initial weights, made plain.

    Args:
        name: one of ``CATALOGUE``, or "my_package.nets:tiny", called as ``tiny(input_shape=..., classes=...)``.
        input_shape: one sample without its batch: (channels, height, width) or (channels, length).
        classes: number of logits.
        seed: decides the initial weights, and whatever else the function draws; no draw of the caller's is moved.
        task: what of its end is taken off.

    Raises:
        ModelError: unknown name, every parameter is frozen, or the net does not turn (2, *input_shape) into finite
            (2, classes) logits.
    """
    return built(name, input_shape, classes, seed, task).model


def built(name: str, input_shape: tuple[int, ...], classes: int, seed: int = 0, task: Task = CLASSIFICATION) -> Built:
    """As `build`, with what is to be said of the net, each in one line."""
    from torch import nn

    if classes < 1 or not input_shape or any(extent < 1 for extent in input_shape):
        raise ModelError(f"{name}: classes {classes} and every extent of input shape {input_shape} must be at least 1")
    function = _resolve(name)
    called = f"{name.rpartition(':')[2]}(input_shape={input_shape}, classes={classes})"
    if wrong := own_code.misfit(function, input_shape=input_shape, classes=classes):
        raise ModelError(f"{name}: {called} failed: {wrong}")
    with draws.seeded(seed):
        try:
            model = function(input_shape=input_shape, classes=classes)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"{name}: {called} failed: {own_code.raised(error, name)}") from error
        if not isinstance(model, nn.Module):
            raise ModelError(f"{name}: returned {type(model).__name__}, expected a torch.nn.Module")
        remarks = as_is.made_plain(model)
        trained = [parameter.requires_grad for parameter in model.parameters()]
        if trained and not any(trained):
            raise ModelError(f"{name}: every parameter is frozen, so nothing can be trained; leave one with a gradient")
        return Built(checked(name, model, input_shape, classes, task), remarks)


def _resolve(name: str) -> Callable[..., object]:
    target = CATALOGUE.get(name, name)
    module_name, colon, function_name = target.partition(":")
    if not (module_name and colon and function_name):
        raise ModelError(
            f'{name}: no such model; known are {", ".join(CATALOGUE)}, or your own as "package.module:function"'
        )
    try:
        function = own_code.imported(target)
    except AttributeError as error:
        if own_code.place(error, target):
            raise ModelError(f"{name}: {own_code.raised(error, target)}") from error
        function = None
    except Exception as error:
        why = own_code.raised(error, target)
        raise ModelError(f"{name}: module {module_name} does not import: {why}") from error
    if not callable(function):
        raise ModelError(f"{name}: {module_name} has no function {function_name}(input_shape, classes)")
    return function  # type: ignore[no-any-return]


def checked(
    name: str, model: nn.Module, input_shape: tuple[int, ...], classes: int, task: Task = CLASSIFICATION
) -> nn.Module:
    """``model``, if it turns (2, *input_shape) into finite (2, classes) logits; else ModelError.

    Maps (2, classes, ...) and sequences (2, ..., classes) of logits will do as well, and one logit of two classes.

    A softmax or a sigmoid that it ends in is taken off where the task is about logits.
    """
    import torch

    batch = _batch(input_shape)
    training = model.training
    try:
        with torch.no_grad():
            logits = endings.bare(model.eval(), batch, task.ends)
    except Exception as error:
        why = own_code.raised(error, name)
        raise ModelError(f"{name}: forward of a batch shaped {tuple(batch.shape)} failed: {why}") from error
    finally:
        model.train(training)
    if not isinstance(logits, torch.Tensor):
        raise ModelError(f"{name}: forward returned {type(logits).__name__}, expected logits shaped (2, {classes})")
    if not _fits(tuple(logits.shape), classes):
        raise ModelError(f"{name}: logits have shape {tuple(logits.shape)}, expected (2, {classes})")
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(f"{name}: logits of a fresh model are not finite, expected finite (2, {classes})")
    return model


def rehearsed(name: str, input_shape: tuple[int, ...], classes: int, seed: int = 0, task: Task = CLASSIFICATION) -> str:
    """What is to be said of a net of one's own, in one line; "" for nothing.

    ModelError where it can be evaluated, but fails in a forward pass of training.
    """
    if name in CATALOGUE:
        return ""
    model, batch = build(name, input_shape, classes, seed, task), _batch(input_shape)
    with draws.seeded(seed):
        try:
            model.train()(batch)
        except Exception as error:
            why = own_code.raised(error, name)
            said = f"forward of a batch shaped {tuple(batch.shape)} failed in training mode: {why}"
            raise ModelError(f"{name}: {said}") from error
        return endings.remark(name, model, batch) if task.ends else ""


def _batch(input_shape: tuple[int, ...]) -> torch.Tensor:
    import torch

    return torch.rand((2, *input_shape), generator=torch.Generator().manual_seed(0))


def _fits(shape: tuple[int, ...], classes: int) -> bool:
    counts = (classes, 1) if classes == 2 else (classes,)
    return shape[:1] == (2,) and len(shape) > 1 and (shape[1] in counts or (len(shape) > 2 and shape[-1] == classes))
