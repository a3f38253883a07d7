"""Width: which channels a device of a narrower tier holds, its model cut out of the full one, and put back.

The server keeps full shapes. Masks over every parameter and buffer that coupled channels run through, each a product of
kept rows and kept columns, say what a tier holds; ``narrow`` and ``embed`` go between the two shapes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedprune.graph import shapes
from fedprune.graph.coupling import Group
from fedprune.graph.moving import Reshape
from fedprune.graph.operations import Conv2d, Graph
from fedprune.graph.shared import second_names, unique_state
from fedprune.types import Masks, Params, Tensor

if TYPE_CHECKING:
    from torch import nn

# Below this relative error a product width · channels counts as the whole number that was meant (0.1 · 30 = 3.000…04).
_ROUNDING = 1e-9


def first_channels(groups: Iterable[Group], width: float) -> dict[str, Tensor]:
    """Kept units by group, (channels,) booleans: the first max(1, ⌈width · C⌉) of C channels.

    Widths nest: what a smaller one keeps, a larger one keeps (HeteroFL, §3; FjORD, §3.1). Raises ValueError where
    ``width`` is outside (0, 1] or there is no group.

    >>> first_channels([Group("conv", 4, ())], 0.5)["conv"].tolist()
    [True, True, False, False]
    """
    return window(groups, width, 0)


def window(groups: Iterable[Group], width: float, start: int) -> dict[str, Tensor]:
    """Kept units by group, (channels,) booleans: max(1, ⌈width · C⌉) channels from ``start`` on, modulo C.

    Widths nest at the same ``start`` (FedRolex, §3). Raises ValueError where ``width`` is outside (0, 1] or there is no
    group.

    >>> window([Group("conv", 4, ())], 0.5, start=3)["conv"].tolist()
    [True, False, False, True]
    """
    if not 0 < width <= 1:
        raise ValueError(f"width {width} is outside (0, 1]")
    units = {group.name: (np.arange(group.size) - start) % group.size < _kept(width, group.size) for group in groups}
    if not units:
        raise ValueError("the model has no channels that can be followed, so it has no width")
    return units


def _kept(width: float, channels: int) -> int:
    return max(1, math.ceil(width * channels * (1 - _ROUNDING)))


def width_masks(
    groups: Iterable[Group], shapes: Mapping[str, tuple[int, ...]], units: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Masks, kept rows x kept columns, of every tensor of ``shapes`` that the groups' channels run through.

    Args:
        groups: as from ``fedprune.graph.coupling.coupled_channels``.
        shapes: full shape of every parameter and buffer, named as in a state dict.
        units: group -> kept channels, (channels,) booleans; a group without units keeps all of them.

    Raises:
        ValueError: units that fit no group or keep nothing; a tensor of a group that ``shapes`` lacks or has otherwise.

    >>> from fedprune.graph.coupling import Member
    >>> rows = Member("conv.weight", (2, 3), 0, np.array([[0], [1]]), produces=True)
    >>> units, shapes = {"conv": np.array([True, False])}, {"conv.weight": (2, 3)}
    >>> width_masks([Group("conv", 2, (rows,))], shapes, units)["conv.weight"].tolist()
    [[True, True, True], [False, False, False]]
    """
    by_name, masks = {group.name: group for group in groups}, dict[str, Tensor]()
    if unknown := units.keys() - by_name.keys():
        raise ValueError(f"units {min(unknown)}: there is no such group of channels")
    for name, group in by_name.items():
        alive = units.get(name, np.ones(group.size, dtype=np.bool_))
        if alive.dtype != np.bool_ or alive.shape != (group.size,) or not alive.any():
            raise ValueError(f"units {name}: expected ({group.size},) booleans, at least one of them True")
        for member in (*group.members, *group.beside):
            if (shape := shapes.get(member.name)) != member.shape:
                raise ValueError(f"{member.name}: shape {shape}, its group has {member.shape}")
            mask = masks.setdefault(member.name, np.ones(member.shape, dtype=np.bool_))
            np.moveaxis(mask, member.dim, 0)[member.positions[~alive].ravel()] = False
    return {name: masks[name] for name in shapes if name in masks}


def narrow(params: Params, masks: Masks) -> dict[str, Tensor]:
    """Each masked tensor cut to the rows and columns that its mask keeps, in ascending order; the others as they are.

    ValueError names a mask of another shape than its tensor, or one that is no product of kept indices an axis.

    >>> narrow({"w": np.array([[5, 6, 7], [8, 9, 0]])}, {"w": np.array([[True, False, True], [False] * 3])})
    {'w': array([[5, 7]])}
    """
    return {name: _cut(name, value, masks[name]) if name in masks else value for name, value in params.items()}


def embed(small: Params, like: Params, masks: Masks) -> dict[str, Tensor]:
    """Narrow tensors back in the shapes of ``like``, exactly 0 where their mask prunes: embed ∘ narrow = masks.apply.

    Tensors without a mask are passed through. ValueError where names differ, or a tensor is not as narrow as its mask.

    >>> mask = np.array([[True, False, True], [False] * 3])
    >>> embed({"w": np.array([[5, 7]])}, {"w": np.zeros((2, 3))}, {"w": mask})["w"].tolist()
    [[5, 0, 7], [0, 0, 0]]
    """
    if small.keys() != like.keys():
        raise ValueError(f"names differ from the full model's: {sorted(small.keys() ^ like.keys())[:3]}")
    return {name: _put(name, small[name], full.shape, masks.get(name)) for name, full in like.items()}


def _cut(name: str, value: Tensor, mask: Tensor) -> Tensor:
    for axis, index in enumerate(_indices(name, mask, value.shape)):
        if index.size < value.shape[axis]:
            value = value.take(index, axis)
    return value


def _put(name: str, value: Tensor, shape: tuple[int, ...], mask: Tensor | None) -> Tensor:
    indices = [np.arange(extent) for extent in shape] if mask is None else _indices(name, mask, shape)
    if value.shape != (expected := tuple(index.size for index in indices)):
        raise ValueError(f"{name}: shape {value.shape}, expected {expected}")
    if value.shape == shape:
        return value
    full = np.zeros(shape, value.dtype)
    full[np.ix_(*indices)] = value
    return full


def _indices(name: str, mask: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """The kept indices along each axis, ascending."""
    if mask.shape != shape:
        raise ValueError(f"mask {name}: shape {mask.shape}, its tensor has {shape}")
    indices = [
        np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        for axis in range(mask.ndim)
    ]
    # Every kept position lies in the product of the indices, so equal counts are equal sets.
    if np.count_nonzero(mask) != math.prod(index.size for index in indices):
        raise ValueError(f"mask {name}: what it keeps is not whole rows and columns")
    return indices


def fit(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Return a copy of ``model`` with these shapes and zeros in them, ready for a narrow state to be loaded.

    The modules' own counts of channels are put right; types, modes and memory format are the model's. ``shapes`` alone
    says what to cut, so that a device needs no trace of the model. 0-d counters may be left out.

    Raises:
        ValueError: names that are not the model's; a shape that is larger, of another rank, or smaller anywhere but
            in the channels of a convolution, a linear layer, a batch norm, the heads of an attention or what a module
            of one's own computes with.

    >>> from torch import nn
    >>> fit(nn.Linear(8, 4), {"weight": (2, 8), "bias": (2,)})
    Linear(in_features=8, out_features=2, bias=True)
    """
    import torch
    from torch import nn

    net = copy.deepcopy(model)
    state, second = unique_state(net), second_names(net)
    named = {name for name, tensor in state.items() if tensor.ndim}
    if wrong := (named - shapes.keys()) | (shapes.keys() - state.keys() - second.keys()):
        raise ValueError(f"not the model's names: {sorted(wrong)[:3]}")
    for prefix, module in net.named_modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, tensor in tensors:
            name = f"{prefix}.{key}".lstrip(".")  # a root that is itself a layer has no prefix
            name = second.get(name, name)
            if name not in state:  # a buffer that no state holds is the model's own constant
                continue
            own, wanted = tuple(tensor.shape), tuple(shapes.get(name, ()))
            channels = _channels(module, len(own))
            larger = len(own) != len(wanted) or any(a < b for a, b in zip(own, wanted, strict=True))
            if larger or own[channels:] != wanted[channels:]:
                raise ValueError(f"{name}: shape {own} cannot be made {wanted}")
            if own == wanted:
                tensor.detach().zero_()  # in place, so that shared weights stay shared
                continue
            # Zeros like a slice, not of a shape: they keep the order of the axes in memory, channels last or not.
            zeros = torch.zeros_like(tensor.detach()[tuple(map(slice, wanted))])
            trained = isinstance(tensor, nn.Parameter)
            setattr(module, key, nn.Parameter(zeros, requires_grad=tensor.requires_grad) if trained else zeros)
        recount(module)
    return net


def _channels(module: nn.Module, rank: int) -> int:
    """Along how many of the first axes a module's own tensors of that rank may be cut."""
    from torch import nn

    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear | nn.modules.batchnorm._BatchNorm):
        return 2
    if isinstance(module, nn.MultiheadAttention):
        return 1
    # any other kind of torch's has counts that nothing puts right
    own = all(kind is nn.Module or not kind.__module__.startswith("torch.") for kind in type(module).__mro__)
    return rank if own else 0


def fitted(graph: Graph) -> Graph:
    """A graph whose parameters are narrower than it says, with the groups and shapes that follow from them.

    ValueError where they do not fit together.
    """
    found, operations = {graph.input: graph.shapes[graph.input]}, []
    for op in graph.operations:
        if isinstance(op, Conv2d) and op.groups == graph.shapes[op.output][1]:  # as in `recount`
            op = replace(op, groups=op.weight.value.shape[0])
        there, said = [found[name] for name in op.inputs], graph.shapes[op.output]
        if there:
            channels = math.prod(there[0]) // math.prod(said[2:]) if isinstance(op, Reshape) else there[0][1]
            said = (said[0], channels, *said[2:])
        found[op.output] = shapes.of(op, there, said)
        operations.append(op)
    return replace(graph, operations=tuple(operations), shapes=found)


def recount(module: nn.Module) -> None:
    """Put a module's own counts of channels and groups right, in place, after its tensors have been cut."""
    from torch import nn

    if isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        # A depthwise layer has as many groups as channels; other group convolutions are never cut.
        module.groups = module.weight.shape[0] if module.groups == module.out_channels else module.groups
        module.out_channels = module.weight.shape[0]
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.MultiheadAttention):
        from fedprune.graph import attention

        attention.recount(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        tensors = [tensor for tensor in (module.weight, module.running_mean) if tensor is not None]
        module.num_features = tensors[0].shape[0] if tensors else module.num_features
