"""A user's net as everything else takes it: plain weights, shared ones once, frozen parts at rest, one output.

Nothing of it changes what the net computes; it is done once, in place, before anything looks at the net.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

_OUTPUTS = ("logits", "out")
"""Keys under which libraries keep a model's output, beside those of auxiliary heads."""
_SHOWN = 3


def made_plain(model: nn.Module) -> tuple[str, ...]:
    """Make a net plain, in place; returns what is to be said of it, each in one line.

    Parametrisations of torch.nn.utils (weight and spectral norm, orthogonality, pruning masks) become the weights that
    they compute now. Parameters that share memory become one. A batch norm whose part of the net is frozen normalises
    by its running statistics, and does not move them. Of several outputs the first tensor is taken, or that under
    "logits" or "out". An embedding takes tokens that are floats, as every input travels. A buffer with an infinity in
    it, such as what hides places from attention, is the code's own constant, and no part of a state.
    """
    _tie(model)
    _without_infinities(model)
    folded = list(_folded(model))
    for module in list(_frozen_norms(model)):
        vars(module)["train"] = _stays
        module.training = False
    for module in model.modules():
        if getattr(module, "sparse", False) is True and hasattr(module, "num_embeddings"):
            module.sparse = False  # type: ignore[assignment]  # what moves weights here takes whole gradients
        if hasattr(module, "num_embeddings") and _whole not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_whole)
    if _first_tensor_hook not in model._forward_hooks.values():
        model.register_forward_hook(_first_tensor_hook)
    kinds = ", ".join(dict.fromkeys(kind for _, kind in folded))
    return (f"{kinds} of {shown([name for name, _ in folded])}: folded, trained as plain weights",) if folded else ()


def frozen(model: nn.Module) -> tuple[str, ...]:
    """Names of what training leaves as it is: parameters without a gradient, and statistics of norms at rest."""
    names = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    at_rest = [
        f"{path}.{key}".removeprefix(".")
        for path, module in model.named_modules()
        if vars(module).get("train") is _stays
        for key, _ in module.named_buffers(recurse=False)
    ]
    return (*names, *at_rest)


def output(given: object) -> torch.Tensor | None:
    """The logits in what a net returned: itself, the first tensor of it, or the one under a usual key."""
    import torch

    if isinstance(given, torch.Tensor):
        return given
    if isinstance(given, Mapping):
        keys = [key for key in _OUTPUTS if isinstance(given.get(key), torch.Tensor)]
        return given[keys[0]] if keys else output(list(given.values()))
    if isinstance(given, list | tuple):
        return next((found for each in given if (found := output(each)) is not None), None)
    named = (getattr(given, key, None) for key in _OUTPUTS)
    return next((value for value in named if isinstance(value, torch.Tensor)), None)


def also_returned(model: nn.Module, batch: torch.Tensor) -> str:
    """What is to be said of a net that returns more than logits, in evaluation or training; empty of any other."""
    import copy

    import torch

    net = copy.deepcopy(model)
    for key, hook in list(net._forward_hooks.items()):
        if hook is _first_tensor_hook:
            del net._forward_hooks[key]
    for training in (False, True):
        try:
            with torch.no_grad():
                given = net.train(training)(batch)
        except Exception:  # training says so in its own words
            continue
        if not isinstance(given, torch.Tensor):
            which = "first tensor"
            if isinstance(given, Mapping):
                which = next((repr(key) for key in _OUTPUTS if isinstance(given.get(key), torch.Tensor)), which)
            when = "in training it" if training else "it"
            return f"{when} returns a {type(given).__name__}: its {which} is the output, the rest is left out"
    return ""


def shown(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    few = [*names][:_SHOWN]
    return ", ".join(few) + (f" and {len(names) - len(few)} more" if len(names) > len(few) else "")


def _first_tensor_hook(model: nn.Module, inputs: object, given: Any) -> Any:
    found = output(given)
    return given if found is None else found


def _whole(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tokens as the whole numbers that an embedding takes: every input travels as floats."""
    first, *others = inputs or (None,)
    return (first.long(), *others) if first is not None and first.is_floating_point() else inputs


def _stays(mode: bool = True) -> None:
    """In the place of a module's ``train``."""


def _tie(model: nn.Module) -> None:
    """Make parameters that are the same place in memory one parameter: a step on each would move it twice."""
    places: dict[object, nn.Parameter] = {}
    for module in model.modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is None or not hasattr(parameter, "untyped_storage") or not parameter.numel():
                continue
            where = parameter.untyped_storage()._cdata, parameter.storage_offset(), parameter.shape, parameter.stride()
            if (first := places.setdefault(where, parameter)) is not parameter:
                setattr(module, key, first)


def _without_infinities(model: nn.Module) -> None:
    for module in model.modules():
        own = [] if type(module).__module__.startswith("torch.") else list(module.named_buffers(recurse=False))
        for key, value in own:
            if value.is_floating_point() and not bool(value.isfinite().all()):
                module._non_persistent_buffers_set.add(key)


def _frozen_norms(model: nn.Module) -> Iterator[nn.Module]:
    """Batch norms of parts that are frozen as a whole: the innermost module around one that has any parameter."""
    from torch.nn.modules.batchnorm import _BatchNorm

    def visit(module: nn.Module, around: bool) -> Iterator[nn.Module]:
        own = [parameter.requires_grad for parameter in module.parameters()]
        around = not any(own) if own else around
        if isinstance(module, _BatchNorm) and around and module.running_mean is not None:
            yield module
        for child in module.children():
            yield from visit(child, around)

    return visit(model, False)


def _folded(model: nn.Module) -> Iterable[tuple[str, str]]:
    """Fold every parametrisation; yields (name of the weight, what it was)."""
    from torch import nn
    from torch.nn.utils import parametrize, prune
    from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
    from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # in training a spectral norm moves on with each look at it
    for path, module in list(model.named_modules()):
        keys = list(module.parametrizations) if parametrize.is_parametrized(module) else []
        for key in keys:
            each = module.parametrizations[key]
            kind = type(each[0]).__name__.lstrip("_")
            trained = any(parameter.requires_grad for parameter in each.parameters())
            parametrize.remove_parametrizations(module, key)
            yield _settle(path, module, key, trained), kind
        for hook in list(module._forward_pre_hooks.values()):
            if not isinstance(hook, WeightNorm | SpectralNorm | prune.BasePruningMethod):
                continue
            key = hook._tensor_name if isinstance(hook, prune.BasePruningMethod) else hook.name
            own = module.named_parameters(recurse=False)
            trained = any(p.requires_grad for name, p in own if name in (f"{key}_g", f"{key}_v", f"{key}_orig"))
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, key)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, key)
            else:
                prune.remove(module, key)  # type: ignore[no-untyped-call]
            yield _settle(path, module, key, trained), type(hook).__name__
    for module, training in modes:
        if isinstance(module, nn.Module):
            module.training = training


def _settle(path: str, module: nn.Module, key: str, trained: bool) -> str:
    """Make what is left a parameter of its own, trained as its parts were; returns its name."""
    from torch import nn

    value = getattr(module, key)
    if not isinstance(value, nn.Parameter) or value.grad_fn is not None:
        if key in module.__dict__:
            del module.__dict__[key]
        module._buffers.pop(key, None)
        module.register_parameter(key, nn.Parameter(value.detach().clone()))
    setattr(module, key, module.get_parameter(key).requires_grad_(trained))  # a recurrent layer lists its weights
    return f"{path}.{key}".removeprefix(".")
