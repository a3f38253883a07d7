"""Which channels live and die together: a residual sum, a depthwise layer or a batch norm ties them into one group."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedprune.graph.shared import second_names
from fedprune.types import Granularity, Masks, Scores, Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn

# Operations (by the name of their gradient) that map each channel by itself, keep a positive value positive and zero
# at zero: on them the coupling by equal indices holds, and a channel's independence of the input carries over.
_PER_CHANNEL = frozenset(
    f"{operation}Backward{overload}"
    for operation in (
        *("Add", "Relu", "Hardtanh", "Clone", "T", "ConstantPadNd", "Mean", "Squeeze", "Unsqueeze"),
        *("MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D", "AdaptiveMaxPool2D"),
    )
    for overload in (0, 1)
)


@dataclass(frozen=True, eq=False)
class Member:
    """A parameter or buffer that a group's channels run through."""

    name: str
    shape: tuple[int, ...]
    dim: int
    """The axis along which the channels lie: 0 where they are produced, 1 where they are consumed."""
    positions: Tensor
    """(channels, k) places along ``dim``: k is 1, more where a flatten gave each channel several columns."""
    produces: bool
    """True for a convolution's, linear layer's or depthwise layer's rows, biases and batch norms; False for columns."""
    groups: int = 1  # of a convolution whose columns these are: all of its groups have them

    @property
    def layer(self) -> str:
        """The module that owns the tensor."""
        return self.name.rpartition(".")[0]

    @property
    def columns(self) -> Tensor:
        """Of a consumer: (channels, k · kernel) columns of ``weight.reshape(out, -1)`` that read each channel."""
        kernel = int(np.prod(self.shape[2:]))
        return (self.positions[:, :, None] * kernel + np.arange(kernel)).reshape(len(self.positions), -1)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of one or several layers that can only be removed from all of them at once."""

    name: str
    """The first layer, in order of execution, that produces the channels."""
    size: int
    """Number of channels."""
    members: tuple[Member, ...]
    """Producers first, each in order of execution."""
    norms: Mapping[str, str] = field(default_factory=dict)
    """Of its members' layers: the batch norm that alone reads one's output."""
    beside: tuple[Member, ...] = ()
    """Parameters of no layer that lose a channel's places with it, such as what is added to scores by head."""


@dataclass(frozen=True)
class Coupling:
    """A traced model as far as its channels are concerned."""

    groups: tuple[Group, ...]
    norms: Mapping[str, str]
    """Layer -> the batch norm that alone reads its output."""
    per_channel: bool
    """Whether every operation between layers maps each channel by itself and zero to zero."""


def coupled_channels(model: nn.Module, example: torch.Tensor) -> tuple[Group, ...]:
    """Return the groups of coupled channels in order of execution, each channel in at most one (DepGraph, Fang 2023).

    The channels of the network's output are left out, and so is every group that runs through an operation whose
    channels cannot be followed for certain: splits, shuffles, products, group convolutions, shared layers, sums with
    the input itself. ``example`` is a batch of inputs, of which only the shape matters.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
    >>> [(group.name, group.size) for group in coupled_channels(net, torch.zeros(1, 1, 8, 8))]
    [('0', 4)]
    """
    return couple(model, example).groups


def coupled(groups: Iterable[Group]) -> Granularity:
    """Return the granularity whose unit is a channel of a group, keyed by the group's name.

    A unit's score is the mean over each producer's weights of that channel, summed over the producers that are scored;
    a group with none scored has no units and stays. A dead unit masks its producers' weight rows and biases and its
    batch norms' weights and biases, so that the channel is exactly 0; the columns that read it stay as they are. So
    masks that name biases and batch norms (``members`` lists them) are what makes a dead channel removable anywhere.

    >>> rows = Member("conv.weight", (2, 3), 0, np.array([[0], [1]]), produces=True)
    >>> units = coupled([Group("conv", 2, (rows,))])
    >>> units.pool({"conv.weight": np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.5]])})
    {'conv': array([2. , 0.5])}
    """
    by_name = {group.name: group for group in groups}

    def pool(scores: Scores) -> Scores:
        units = {name: [_row_means(m, scores) for m in _rows(group, scores)] for name, group in by_name.items()}
        return {name: np.sum(means, axis=0) for name, means in units.items() if means}

    def spread(kept: Masks, like: Masks) -> Masks:
        masks: dict[str, Tensor] = {}
        for name, units in kept.items():
            for member in by_name[name].members:
                if member.produces and member.name.endswith(("weight", "bias")):
                    mask = masks.setdefault(member.name, np.ones(member.shape, dtype=np.bool_))
                    mask[member.positions[~units].ravel()] = False
        return masks

    return Granularity(pool, spread)


def couple(model: nn.Module, example: torch.Tensor) -> Coupling:
    """Return groups, of a net that can be followed, lone batch norms and whether all operations are per channel."""
    from torch import nn

    net = copy.deepcopy(model).eval().requires_grad_(True)
    calls = _calls(net, example)
    try:
        nodes, traced_groups = _dependencies(net, example)
    except Exception:  # the library's own, of whatever kind, for a net that it cannot follow
        return Coupling((), {}, False)
    names = {module: name for name, module in net.named_modules()}
    shared = _shared(net)
    safe = {
        node.module
        for node in nodes
        if node.module not in shared and _is_safe(node, calls.get(names.get(node.module, "?"), []), example.ndim)
    }
    groups, claimed = [], set[tuple[str, int, int]]()
    for traced in traced_groups:
        group = _group(traced, safe, names, list(calls))
        places = {(m.name, m.dim, int(p)) for m in group.members for p in m.positions.flat} if group else set()
        if group and not places & claimed:
            groups.append(group)
            claimed |= places
    norms = {
        names[node.module]: names[node.outputs[0].module]
        for node in nodes
        if isinstance(node.module, (nn.modules.conv._ConvNd, nn.Linear))
        and len(node.outputs) == 1
        and isinstance(node.outputs[0].module, nn.modules.batchnorm._BatchNorm)
        and node.outputs[0].module in safe
    }
    groups = [replace(g, norms={m.layer: norms[m.layer] for m in g.members if m.layer in norms}) for g in groups]
    # What stands at the very end reads no further: a softmax there does no harm.
    inner = {node.module for node in nodes if node.outputs}
    return Coupling(tuple(sorted(groups, key=lambda group: [*calls].index(group.name))), norms, inner <= safe)


def _dependencies(net: nn.Module, example: torch.Tensor) -> tuple[list[Any], list[Any]]:
    """The nodes and groups of the library's graph; it raises errors of many kinds."""
    import torch
    import torch_pruning

    # It warns of what it cannot follow, such as a GRU: `_is_safe` judges what may be relied on.
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # As a tuple: a bare batch would first be tried as one argument a sample.
        graph = torch_pruning.DependencyGraph().build_dependency(net, (example,), verbose=False)
        return list(graph.module2node.values()), list(graph.get_all_groups())


def _shared(net: nn.Module) -> set[nn.Module]:
    """Modules that own a parameter or buffer which has a second name: what is cut of one would be cut of another."""
    second = second_names(net)
    owners = {name.rpartition(".")[0] for name in (*second, *second.values())}
    return {module for name, module in net.named_modules(remove_duplicate=False) if name in owners}


def _calls(model: nn.Module, example: torch.Tensor) -> dict[str, list[int]]:
    """Module name -> number of input axes at each of its calls, in order of first call."""
    import torch

    calls: dict[str, list[int]] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            calls.setdefault(name, []).append(inputs[0].ndim if inputs and hasattr(inputs[0], "ndim") else 0)

        return hook

    modes = {module: module.training for module in model.modules()}
    handles = [module.register_forward_pre_hook(record(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return calls


def _is_safe(node: Any, calls: Sequence[int], ndim: int) -> bool:
    """Whether channels go through this node of the traced graph as the coupling assumes."""
    import torch_pruning
    from torch import nn

    module, grad = node.module, node.grad_fn
    if isinstance(module, nn.Parameter):
        return False
    if isinstance(module, nn.modules.conv._ConvNd):
        depthwise = module.groups == module.in_channels == module.out_channels
        return len(calls) == 1 and not module.transposed and (module.groups == 1 or depthwise)
    if isinstance(module, nn.Linear):
        return calls == [2]
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return len(calls) == 1 and module.running_mean is not None
    if isinstance(module, torch_pruning.ops._ReshapeOp):
        return True
    sources = [function for function, _ in grad.next_functions]
    if grad.name() == "TBackward0":
        return True
    if any(source is None or "AccumulateGrad" in source.name() for source in sources):
        # The other operand is the input or a constant: its channels would have to be cut as well.
        return False
    if isinstance(module, torch_pruning.ops._ConcatOp):
        return bool(grad._saved_dim == 1)
    if grad.name() == "ConstantPadNdBackward0":
        return not any(grad._saved_pad[2 * (ndim - 2) :])
    if grad.name() == "MeanBackward1":
        rank = len(grad._saved_self_sym_sizes)
        return all(_signed(dim) % rank > 1 for dim in grad._saved_dim)
    return grad.name() in _PER_CHANNEL - {"MeanBackward0"}


def _signed(dim: int) -> int:
    # Autograd shows a negative axis as its unsigned 64-bit pattern.
    return dim - 2**64 if dim >= 2**63 else dim


def _group(traced: Any, safe: set[Any], names: Mapping[Any, str], order: Sequence[str]) -> Group | None:
    """One group of the library's graph as ours, or None where it is not certain."""
    size = len(traced[0].idxs)
    members: list[Member] = []
    for item in traced:
        node, outwards = item.dep.target, item.dep.handler.__name__ == "prune_out_channels"
        if node.module not in safe or (outwards and not node.outputs):
            return None
        if node.module not in names or not hasattr(node.module, "weight"):
            continue
        positions = _positions(item.idxs, item.root_idxs, size)
        tensors = {**dict(node.module.named_parameters()), **dict(node.module.named_buffers())}
        for key, tensor in tensors.items():
            if tensor.ndim == 0 or not (outwards or key == "weight"):
                continue
            name, dim = f"{names[node.module]}.{key}", 0 if outwards else 1
            if positions is None or positions.max() >= tensor.shape[dim]:
                return None
            members.append(Member(name, tuple(tensor.shape), dim, positions, outwards))
    members.sort(key=lambda member: (not member.produces, order.index(member.layer)))
    roots = [m for m in members if m.produces and len(m.shape) > 1]
    if not roots:
        return None
    return Group(roots[0].layer, size, tuple(members))


def _positions(places: Sequence[int], roots: Sequence[int | None], size: int) -> Tensor | None:
    """(size, k) places of each channel, or None where channels have unequal numbers of places or share them."""
    found: list[list[int]] = [[] for _ in range(size)]
    for place, root in zip(places, roots, strict=True):
        if root is None:
            return None
        found[root].append(place)
    if len({len(one) for one in found}) != 1 or not found[0] or len(set(places)) != len(places):
        return None
    return np.array([sorted(one) for one in found], dtype=np.int64)


def _rows(group: Group, scores: Scores) -> list[Member]:
    return [m for m in group.members if m.produces and len(m.shape) > 1 and m.name in scores]


def _row_means(member: Member, scores: Scores) -> Tensor:
    # (out, ...) -> (channels,)
    rows = scores[member.name].reshape(member.shape[0], -1).mean(1)
    means: Tensor = rows[member.positions].mean(1)
    return means
