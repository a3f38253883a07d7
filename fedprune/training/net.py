"""The model as a loss calls it: trained with any parameters, or asked at rest, as a teacher is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fedprune.tasks import CLASSIFICATION, Task

if TYPE_CHECKING:
    import torch
    from torch import nn


class Net:
    """A model with parameters that are given with each call; to be made before anything wraps the model."""

    def __init__(self, model: nn.Module, at_rest: int = 0, task: Task = CLASSIFICATION) -> None:
        """``at_rest`` is the most examples at a time that `still` computes, 0 for all of them."""
        self.task = task
        self._model, self._at_rest = model, at_rest
        self._parameters, self._buffers = dict(model.named_parameters()), dict(model.named_buffers())
        self._names = model.state_dict(keep_vars=True).keys() | self._parameters.keys() | self._buffers.keys()
        self._forwards = {module: vars(module).get("forward") for module in model.modules()}
        self.logits: torch.Tensor | None = None
        """The last ones of training that carry a gradient, without it."""

    def __call__(self, params: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """Logits of training with ``params``, and with the model's own where ``params`` has none.

        Batch norm takes the batch's statistics and moves the model's running ones, whatever buffers are given.
        KeyError for a name that the model has not.
        """
        from torch.func import functional_call

        self._check(params)
        others = {n: params[n] for n, own in self._parameters.items() if params.get(n, own) is not own}
        logits: torch.Tensor = functional_call(self._model, others, (inputs,)) if others else self._model(inputs)
        if logits.requires_grad:
            self.logits = logits.detach()
        return logits

    def still(self, params: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """Logits of evaluation with ``params`` and buffers of that mapping, without gradients.

        The whole model computes them as it was before it was wrapped: neither rounded nor narrowed to a smaller one
        nested in it. It is left as it was found. KeyError for a name that the model has not.
        """
        import torch
        from torch.func import functional_call

        self._check(params)
        own = {**self._parameters, **self._buffers}
        used = {name: params.get(name, tensor) for name, tensor in own.items()}
        with torch.no_grad(), self._unwrapped():
            parts = torch.split(inputs, self._at_rest or max(1, len(inputs)))
            return torch.cat([functional_call(self._model, used, (some,)) for some in parts])

    def _check(self, params: Mapping[str, torch.Tensor]) -> None:
        if unknown := sorted(params.keys() - self._names):
            raise KeyError(f"{unknown[0]} is no parameter or buffer of the model")

    @contextmanager
    def _unwrapped(self) -> Iterator[None]:
        modes = {module: module.training for module in self._forwards}
        wrapped = {module: vars(module).get("forward") for module in self._forwards}
        self._model.eval()
        _put(self._forwards)
        try:
            yield
        finally:
            _put(wrapped)
            for module, mode in modes.items():
                module.training = mode


def _put(forwards: Mapping[nn.Module, Any]) -> None:
    # An attribute of the instance comes before the class's method; None is no such attribute.
    for module, forward in forwards.items():
        vars(module).pop("forward", None)
        if forward is not None:
            vars(module)["forward"] = forward


@contextmanager
def lone_examples(model: nn.Module) -> Iterator[None]:
    """Let batch norms that get one value a channel go by their running statistics: one value has no spread."""
    from torch.nn.modules.batchnorm import _BatchNorm

    alone: set[nn.Module] = set()

    def before(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # one that its owner keeps at rest stays so, be it for good or while the net is still
        if norm.training and inputs[0].numel() <= inputs[0].shape[1]:
            alone.add(norm)
            norm.training = False

    def after(norm: nn.Module, inputs: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> None:
        if norm in alone:
            alone.remove(norm)
            norm.training = True

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(before) for norm in norms]
    hooks += [norm.register_forward_hook(after, always_call=True) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
