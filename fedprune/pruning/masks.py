"""Masks as values: make, apply, combine, count and check them."""

from collections.abc import Mapping

import numpy as np

from fedprune.types import Masks, Params, Tensor


def ones_like(shapes: Mapping[str, tuple[int, ...]]) -> Masks:
    """Masks that keep everything, one for each named shape.

    >>> ones_like({"conv.weight": (2, 2)})["conv.weight"].tolist()
    [[True, True], [True, True]]
    """
    return {name: np.ones(shape, dtype=np.bool_) for name, shape in shapes.items()}


def apply(params: Params, masks: Masks) -> Params:
    """Parameters with pruned positions exactly 0 (never −0 or NaN); those without a mask are passed through.

    >>> apply({"w": np.array([3.0, 4.0]), "b": np.array([1.0])}, {"w": np.array([True, False])})
    {'w': array([3., 0.]), 'b': array([1.])}
    """
    return {
        name: np.where(masks[name], value, value.dtype.type(0)) if name in masks else value
        for name, value in params.items()
    }


def intersect(a: Masks, b: Masks) -> Masks:
    """Kept in both. A parameter that only one side masks keeps that side's mask.

    >>> intersect({"w": np.array([True, True, False])}, {"w": np.array([True, False, False])})
    {'w': array([ True, False, False])}
    """
    return {**a, **b, **{name: a[name] & b[name] for name in a.keys() & b.keys()}}


def union(a: Masks, b: Masks) -> Masks:
    """Kept in either. A parameter that only one side masks is dense on the other side, so it is dense.

    >>> union({"w": np.array([True, False]), "v": np.array([False])}, {"w": np.array([False, False])})
    {'w': array([ True, False])}
    """
    return {name: a[name] | b[name] for name in a if name in b}


def kept(masks: Masks) -> int:
    """Number of kept positions.

    >>> kept({"w": np.array([True, False]), "v": np.array([True])})
    2
    """
    return sum(int(np.count_nonzero(mask)) for mask in masks.values())


def density(masks: Masks) -> float:
    """Kept fraction over all masked positions; 1.0 where nothing is masked.

    >>> density({"w": np.array([True, False, False]), "v": np.array([False])})
    0.25
    """
    size = sum(mask.size for mask in masks.values())
    return kept(masks) / size if size else 1.0


def densities(masks: Masks) -> dict[str, float]:
    """Kept fraction of each masked parameter.

    >>> densities({"w": np.array([True, False]), "v": np.array([True])})
    {'w': 0.5, 'v': 1.0}
    """
    return {name: int(np.count_nonzero(mask)) / max(mask.size, 1) for name, mask in masks.items()}


def density_all(params: Params, masks: Masks) -> float:
    """Kept fraction over all parameters, those without a mask counted as kept.

    >>> density_all({"w": np.ones(3), "b": np.ones(1)}, {"w": np.array([True, False, False])})
    0.5
    """
    size = sum(value.size for value in params.values())
    pruned = sum(mask.size for mask in masks.values()) - kept(masks)
    return 1 - pruned / size if size else 1.0


def nested(small: Masks, large: Masks) -> bool:
    """Whether every position kept in ``small`` is kept in ``large``; a parameter without a mask is kept whole.

    >>> small, large = {"w": np.array([True, False])}, {"w": np.array([True, True])}
    >>> nested(small, large), nested(large, small)
    (True, False)
    """
    return all(not np.any(small.get(name, np.True_) & ~mask) for name, mask in large.items())


def equal(a: Masks, b: Masks) -> bool:
    """Whether both mask the same parameters at the same positions.

    >>> equal({"w": np.array([True])}, {"w": np.array([True]), "v": np.array([True])})
    False
    """
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def check(masks: Masks, params: Params) -> None:
    """Raise ValueError naming the first mask that is not boolean, or not of its parameter's shape.

    >>> check({"w": np.array([True])}, {"w": np.ones(2)})
    Traceback (most recent call last):
    ValueError: mask w: shape (1,), its parameter has (2,)
    """
    for name, mask in masks.items():
        if name not in params:
            raise ValueError(f"mask {name}: the model has no such parameter")
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise ValueError(f"mask {name}: expected booleans, got {_kind(mask)}")
        if mask.shape != params[name].shape:
            raise ValueError(f"mask {name}: shape {mask.shape}, its parameter has {params[name].shape}")


def _kind(value: Tensor) -> str:
    return str(getattr(value, "dtype", type(value).__name__))
