"""Surgery: from a masked model to a physically smaller one that computes the same function."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedprune.graph.coupling import Coupling, Group, Member, couple
from fedprune.graph.width import recount
from fedprune.pruning import masks as masking
from fedprune.types import Masks, Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn

# In double precision: how far a channel's contribution may vary over the image and still count as a constant, and how
# far the smaller model may stray from the masked one, both relative.
_CONSTANT, _SAME = 1e-9, 1e-6


class SurgeryError(RuntimeError):
    """The smaller model does not run, or differs from the masked one: the model hides how its channels are coupled."""


def shrink(model: nn.Module, masks: Masks, example: torch.Tensor) -> nn.Module:
    """Return a smaller copy that computes, in evaluation mode, what ``model`` with its weights masked computes.

    A channel goes when nothing needs it: every layer that reads it has only zeros for it, or receives from it a value
    that no input can change and that its bias can carry exactly (under zero padding a constant is none at the border,
    so there the channel stays). Such values are added to the bias, or taken off the running mean of the batch norm that
    follows. Removals are repeated until none is left; one channel of a group always stays. ``model`` is not changed.

    Args:
        masks: of any parameters; biases and batch norms too.
        example: a batch of inputs, of which only the shape matters; with flattened or padded maps the result holds
            for inputs of that size.

    Raises:
        ValueError: a mask that fits no parameter.
        SurgeryError: the result was tried on random inputs and is not the same function.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> read = {"2.weight": np.array([[True, False, False, True]] * 2)}  # nothing reads channels 1 and 2
    >>> shrink(net, read, torch.zeros(1, 3))[0]
    Linear(in_features=3, out_features=2, bias=True)
    """
    smaller, coupling, removed = _operate(model, masks, example)
    _cut(smaller, coupling.groups, removed)
    _compare(_masked(model, masks), smaller, example)
    originals = dict(model.named_parameters())
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(name not in originals or originals[name].requires_grad)
    for module, original in zip(smaller.modules(), model.modules(), strict=True):
        module.training = original.training
    first = next(iter(originals.values()))
    return smaller.to(device=first.device, dtype=first.dtype)


def removable(model: nn.Module, masks: Masks, example: torch.Tensor) -> dict[str, Tensor]:
    """Return the channels (ascending indices) that ``shrink`` removes, of each group that loses any.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> removable(net, {"2.weight": np.array([[True, False, False, True]] * 2)}, torch.zeros(1, 3))
    {'0': array([1, 2])}
    """
    _, _, removed = _operate(model, masks, example)
    return {name: np.flatnonzero(gone) for name, gone in removed.items() if gone.any()}


def _operate(model: nn.Module, masks: Masks, example: torch.Tensor) -> tuple[nn.Module, Coupling, dict[str, Tensor]]:
    """The masked model in double precision, removed channels zeroed and their constants folded; and which they are."""
    net = _masked(model, masks)
    try:
        coupling = couple(net, _noise(example, 1, seed=0))
    except Exception as error:  # whatever the net's own code raises
        raise SurgeryError(f"the model does not run in double precision: {error}") from error
    removed = {group.name: np.zeros(group.size, dtype=np.bool_) for group in coupling.groups}
    while True:
        inputs = _inputs(net, coupling.groups, _noise(example, 1, seed=0))
        reached = _reached(net, coupling, example)
        found = {group.name: _needless(net, group, ~removed[group.name], inputs, reached) for group in coupling.groups}
        if not any(channels.any() for channels in found.values()):
            return net, coupling, removed
        for group in coupling.groups:
            _fold(net, group, found[group.name], inputs, coupling.norms)
        for group in coupling.groups:
            _silence(net, group, found[group.name])
            removed[group.name] |= found[group.name]


def _masked(model: nn.Module, masks: Masks) -> nn.Module:
    import torch

    net = copy.deepcopy(model).cpu().eval().double().requires_grad_(False)
    parameters = dict(net.named_parameters())
    masking.check(masks, {name: parameter.numpy() for name, parameter in parameters.items()})
    for name, mask in masks.items():
        parameters[name].masked_fill_(torch.from_numpy(~mask), 0.0)
    return net


def _noise(example: torch.Tensor, batch: int, *, seed: int) -> torch.Tensor:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, *example.shape[1:]), generator=generator, dtype=torch.float64)


def _inputs(net: nn.Module, groups: Iterable[Group], batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the layers that read a group see, keyed by layer."""
    import torch

    seen: dict[str, torch.Tensor] = {}
    modules = dict(net.named_modules())
    layers = {member.layer for group in groups for member in group.members if not member.produces}

    def record(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[name] = inputs[0]

        return modules[name].register_forward_pre_hook(hook)

    handles = [record(name) for name in layers]
    with torch.no_grad():
        net(batch)
    for handle in handles:
        handle.remove()  # type: ignore[attr-defined]
    return seen


def _reached(net: nn.Module, coupling: Coupling, example: torch.Tensor) -> dict[str, Tensor]:
    """Layer -> (inputs,) booleans: whether the model's input can change that channel (or column) of the layer's input.

    Read off the zero pattern: with every non-zero weight one, no biases and a positive input, all values are
    non-negative, and 0 is exactly what no chain of non-zero weights connects to the input.
    """
    import torch
    from torch import nn

    pattern = copy.deepcopy(net)
    for module in pattern.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.conv._ConvNd | nn.Linear):
            module.register_forward_hook(lambda _module, _inputs, output: output.sign())
            for key, parameter in module.named_parameters(recurse=False):
                parameter.copy_(parameter != 0 if key == "weight" else torch.zeros(()))
    ones = torch.ones((1, *example.shape[1:]), dtype=torch.float64)
    seen = _inputs(pattern, coupling.groups, ones)
    if not coupling.per_channel:
        return {name: np.ones(value.shape[1], dtype=np.bool_) for name, value in seen.items()}
    return {
        name: (value[0].flatten(1) if value.ndim > 2 else value.T).ne(0).any(1).numpy() for name, value in seen.items()
    }


def _needless(
    net: nn.Module, group: Group, alive: Tensor, inputs: Mapping[str, torch.Tensor], reached: Mapping[str, Tensor]
) -> Tensor:
    """(channels,) booleans: alive, and every reader has zeros for it or can carry its constant in a bias."""
    needless = alive.copy()
    for member in _readers(group):
        used = _used(net, member)
        fixed = used & needless & ~reached[member.layer][member.positions].any(1)
        for channel in np.flatnonzero(fixed):
            fixed[channel] = _contribution(net, member, int(channel), inputs[member.layer]) is not None
        needless &= ~used | fixed
    if (needless == alive).all():
        # A group of no channels is no tensor: one stays, whatever it is worth.
        needless[np.flatnonzero(needless)[:1]] = False
    return needless


def _readers(group: Group) -> list[Member]:
    return [member for member in group.members if not member.produces]


def _used(net: nn.Module, member: Member) -> Tensor:
    # (out, in, ...) -> (channels,)
    weight = net.get_parameter(member.name).numpy()
    columns = (weight != 0).any(axis=(0, *range(2, weight.ndim)))
    used: Tensor = columns[member.positions].any(1)
    return used


def _contribution(net: nn.Module, member: Member, channel: int, seen: torch.Tensor) -> torch.Tensor | None:
    """What one channel adds to each output of the layer that reads it, (out,); None where that varies over the map."""
    import torch
    from torch import nn

    layer = net.get_submodule(member.layer)
    places = torch.from_numpy(member.positions[channel])
    value, weight = seen[:1, places], net.get_parameter(member.name)[:, places]
    if isinstance(layer, nn.Linear):
        return (weight @ value[0]).clone()
    assert isinstance(layer, nn.modules.conv._ConvNd)
    if layer.padding_mode != "zeros":
        return None
    convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[value.ndim - 3]
    response = convolve(value, weight, None, layer.stride, layer.padding, layer.dilation)[0].flatten(1)
    spread = (response.amax(1) - response.amin(1)).max()
    return response[:, 0].clone() if spread <= _CONSTANT * response.abs().max() else None


def _fold(
    net: nn.Module, group: Group, channels: Tensor, inputs: Mapping[str, torch.Tensor], norms: Mapping[str, str]
) -> None:
    """Let the readers of these channels carry their constants, and read them no more."""
    import torch
    from torch import nn

    for member in _readers(group):
        weight, layer = net.get_parameter(member.name), net.get_submodule(member.layer)
        assert isinstance(layer, nn.modules.conv._ConvNd | nn.Linear)
        for channel in np.flatnonzero(channels & _used(net, member)):
            constant = _contribution(net, member, int(channel), inputs[member.layer])
            if constant is None or not bool(constant.any()):
                continue
            if member.layer in norms:
                net.get_buffer(f"{norms[member.layer]}.running_mean").sub_(constant)
            elif layer.bias is not None:
                layer.bias.add_(constant)
            else:
                layer.bias = nn.Parameter(constant, requires_grad=False)
        weight[:, torch.from_numpy(member.positions[channels].ravel())] = 0


def _silence(net: nn.Module, group: Group, channels: Tensor) -> None:
    """Zero what produces these channels, so that what only they read is seen to be needless next."""
    import torch

    parameters = dict(net.named_parameters())
    for member in group.members:
        for name in _tensors(member):
            if member.produces and name in parameters:
                parameters[name][torch.from_numpy(member.positions[channels].ravel())] = 0


def _tensors(member: Member) -> list[str]:
    # The bias that folding gave a layer is not yet in the traced groups, but lies along its rows.
    return [member.name, f"{member.layer}.bias"] if member.produces else [member.name]


def _cut(net: nn.Module, groups: Iterable[Group], removed: Mapping[str, Tensor]) -> None:
    """Take the removed channels out of every tensor and put the modules' own counts right."""
    import torch
    from torch import nn

    gone: dict[tuple[str, int], list[int]] = {}
    for group in groups:
        for member in group.members:
            for tensor_name in _tensors(member):
                places = gone.setdefault((tensor_name, member.dim), [])
                places.extend(member.positions[removed[group.name]].ravel())
    for name, module in net.named_modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, tensor in tensors:
            for dim in (0, 1):
                if lost := gone.get((f"{name}.{key}", dim)):
                    keep = np.setdiff1d(np.arange(tensor.shape[dim]), lost)
                    tensor = tensor.detach().index_select(dim, torch.from_numpy(keep))
                    setattr(module, key, nn.Parameter(tensor) if key in module._parameters else tensor)
        recount(module)


def _compare(masked: nn.Module, smaller: nn.Module, example: torch.Tensor) -> None:
    import torch

    batch = _noise(example, 2, seed=1)
    with torch.no_grad():
        expected = masked(batch)
        try:
            got = smaller(batch)
        except Exception as error:
            raise SurgeryError(f"the smaller model does not run: {error}") from error
    worst, scale = float((got - expected).abs().max()), float(expected.abs().max())
    if not worst <= _SAME * max(scale, 1e-30):
        raise SurgeryError(
            f"the smaller model is off by {worst:.2g} where the masked one's largest output is {scale:.2g}"
        )
