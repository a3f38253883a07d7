"""A tensor seen as another with its axes in another order: how moves of axes wait until somebody needs them done."""

import math
from typing import NamedTuple

import numpy as np

from fedprune.types import Tensor

Shape = tuple[int, ...]


class View(NamedTuple):
    """What a tensor of a file is, in terms of one that is really computed."""

    base: int
    """The tensor that is computed."""
    order: tuple[int, ...]
    """Its axes longer than one, in the order in which the tensor seen has them; where axes of one lie is left open."""

    @property
    def is_plain(self) -> bool:
        """Whether the values lie in the order of the base."""
        return self.order == tuple(sorted(self.order))


def long_axes(shape: Shape) -> tuple[int, ...]:
    """Return the axes longer than one."""
    return tuple(axis for axis, size in enumerate(shape) if size > 1)


def as_map(shape: Shape) -> Shape:
    """Return the shape (1, F) or (1, L, C) as that of a map, (1, 1, 1, F) or (1, 1, L, C); others as they are."""
    return (1, *[1] * (4 - len(shape)), *shape[1:]) if shape[:1] == (1,) and 1 < len(shape) < 4 else shape


def plain(index: int, shape: Shape) -> View:
    """Return a tensor as it is."""
    return View(index, long_axes(shape))


def transposed(view: View, shape: Shape, permutation: Shape) -> View:
    """Return the view of a tensor seen through ``view``, of ``shape``, once its axes are permuted."""
    places = dict(zip(long_axes(shape), view.order, strict=True))
    return View(view.base, tuple(places[axis] for axis in permutation if axis in places))


def is_relabelled(before: Shape, after: Shape) -> bool:
    """Return whether the shapes differ by axes of one alone."""
    return [size for size in before if size > 1] == [size for size in after if size > 1]


def permutation(view: View, base: Shape, shape: Shape) -> Shape:
    """Return the permutation of the base's axes that lays the values out as in ``shape``.

    The result has that very shape where axes of one can be placed so; else it takes a reshape besides.
    """
    ones = [axis for axis in range(len(base)) if axis not in view.order]
    if len(shape) != len(base) or len(long_axes(shape)) != len(view.order):
        return (*ones, *view.order)
    rest, long = iter(ones), iter(view.order)
    return tuple(next(long) if size > 1 else next(rest) for size in shape)


def spread(values: Tensor, shape: Shape, view: View, base: Shape) -> Tensor:
    """Return a constant that broadcasts to ``shape`` as one that broadcasts to the base, in its order of axes."""
    full = values.reshape((1,) * (len(shape) - values.ndim) + values.shape)
    kept = full.reshape([full.shape[axis] for axis in long_axes(shape)])
    sizes = [1] * len(base)
    for axis, size in zip(view.order, kept.shape, strict=True):
        sizes[axis] = size
    result: Tensor = kept.transpose(np.argsort(view.order)).reshape(sizes)
    return result


def columns(view: View, base: Shape) -> Tensor:
    """Return, for each value of the base in its order, where it lies in the flattened tensor seen through ``view``."""
    sizes = [base[axis] for axis in view.order]
    found: Tensor = np.arange(math.prod(sizes)).reshape(sizes).transpose(np.argsort(view.order)).ravel()
    return found
