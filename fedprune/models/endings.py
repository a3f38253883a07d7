"""How a net ends: one that ends in a softmax, or in a sigmoid of its one logit, is made to give what comes before it.

Losses and files are of logits. Through a second softmax a net would hardly learn, and probabilities of 8 bits tie.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from fedprune.tasks import CLASSIFICATION

if TYPE_CHECKING:
    import torch
    from torch import nn

_SHAPES = ("contiguous", "flatten", "float", "permute", "reshape", "squeeze", "transpose", "unsqueeze", "view")
"""Methods of a tensor after which probabilities still are such."""
_ENDS = "_fedprune_ends"


def bare(model: nn.Module, batch: torch.Tensor, ends: Collection[str] = CLASSIFICATION.ends) -> torch.Tensor:
    """What ``model`` gives for ``batch``; from then on, and in copies of it, without its softmax where it ends in one.

    What is taken off is one of ``ends``, and a sigmoid beside a softmax only where it is of one logit.

    The module that calls it, as a function or as a module of its own, is changed in place; no name of its state is.
    """
    stack: list[nn.Module] = []
    calls: Counter[nn.Module] = Counter()

    def enter(module: nn.Module, inputs: object) -> None:
        stack.append(module)
        calls[module] += 1

    def leave(module: nn.Module, inputs: object, outputs: object) -> None:
        stack.pop()

    hooks = [module.register_forward_pre_hook(enter) for module in model.modules()]
    hooks += [module.register_forward_hook(leave, always_call=True) for module in model.modules()]
    try:
        with _noting()(stack) as noting:
            outputs = model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    found = noting.of(outputs)
    if found is None or found.ends not in ends or _of_several(found.ends, ends, outputs):
        return outputs  # type: ignore[no-any-return]
    # a module that is called elsewhere as well, such as one softmax for all, keeps it there
    module = next((each for each in reversed(found.callers) if calls[each] == 1), model)
    if "forward" in vars(module):  # an attribute comes before the class
        return outputs  # type: ignore[no-any-return]
    kind: Any = type(module)
    module.__class__ = _bared(kind, found.ends)
    return bare(model, batch, ends)  # there may be a second before it


def _of_several(found: str, ends: Collection[str], outputs: torch.Tensor) -> bool:
    """Whether a sigmoid is of several outputs of a task whose logits are those of a softmax."""
    return found == "sigmoid" and "softmax" in ends and outputs.shape[1] != 1


def remark(name: str, model: nn.Module, batch: torch.Tensor) -> str:
    """What is to be said of how ``model``, called ``name``, ends, in one line; "" where it ends in logits."""
    import torch

    ends = next((getattr(module, _ENDS) for module in model.modules() if hasattr(module, _ENDS)), "")
    if ends:
        logits = "what comes before it is taken as its logits, in training and in testing"
        return f"{name} ends in a {ends}: {logits}; files give logits as well, without the {ends}"
    modes = {module: module.training for module in model.modules()}
    with torch.no_grad():
        outputs = model.eval()(batch)
    for module, mode in modes.items():
        module.training = mode
    if outputs.ndim < 2 or outputs.shape[1] < 2 or bool((outputs < 0).any()):
        return ""
    if not torch.allclose(outputs.sum(1), torch.ones(()), atol=1e-4):
        return ""
    return (
        f"{name} gives probabilities, as of a softmax, and would learn little: return the logits that they are made of"
    )


@functools.cache
def _bared(kind: type[nn.Module], ends: str) -> type[nn.Module]:
    """The class of a module that gives what comes before its last softmax: copies of the module are of it as well."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _noting()() as noting:
            outputs = kind.forward(self, *args, **kwargs)
        return noting.before(outputs)

    return type(kind.__name__, (kind,), {"forward": forward, _ENDS: ends, "__module__": kind.__module__})


@functools.cache
def _noting() -> Any:
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    ends: Mapping[Any, str] = {
        **dict.fromkeys((functional.softmax, torch.softmax, torch.Tensor.softmax), "softmax"),
        **dict.fromkeys((functional.log_softmax, torch.log_softmax, torch.Tensor.log_softmax), "log-softmax"),
        **dict.fromkeys((torch.sigmoid, torch.Tensor.sigmoid, functional.sigmoid), "sigmoid"),
    }
    shapes = {getattr(torch, name, None) for name in _SHAPES} | {getattr(torch.Tensor, name) for name in _SHAPES}

    class Note:
        def __init__(self, outputs: Any, before: Any, ends: str, callers: tuple[Any, ...]) -> None:
            self.outputs, self.before, self.ends, self.callers = outputs, before, ends, callers

    class Noting(TorchFunctionMode):
        """Notes, of each tensor of probabilities, what it would be without its softmax."""

        def __init__(self, stack: Any = ()) -> None:
            super().__init__()
            self._stack, self._notes = stack, dict[int, Note]()

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            outputs = func(*args, **(kwargs or {}))
            if func in ends:
                before = args[0] if args else kwargs["input"]
                self._notes[id(outputs)] = Note(outputs, before, ends[func], (*self._stack,))
            elif func in shapes and args and (note := self.of(args[0])) is not None:
                same = outputs is args[0]
                before = note.before if same else func(note.before, *args[1:], **(kwargs or {}))
                self._notes[id(outputs)] = Note(outputs, before, note.ends, note.callers)
            return outputs

        def of(self, outputs: Any) -> Note | None:
            # a note keeps its tensor, so that no other gets its number
            note = self._notes.get(id(outputs))
            return note if note is not None and note.outputs is outputs else None

        def before(self, outputs: Any) -> Any:
            while (note := self.of(outputs)) is not None:
                outputs = note.before
            return outputs

    return Noting
