"""Pictures of shapes, drawn from a seed: circles, squares and triangles, each pixel's class beside its colour."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedprune.counter_rng import uniforms
from fedprune.data.examples import Array, Dataset, Examples

CLASSES = ("background", "circle", "square", "triangle")
CAMERAS, PICTURES, SIZE = 12, 150, 32
_MOST = 3
"""Shapes in one picture."""

Numbers = npt.NDArray[np.float64]


def load(data_dir: Path | None = None, seed: int = 0) -> Dataset:
    """Returns 1,800 pictures (3, 32, 32) uint8 and their classes (32, 32), 150 by each of 12 cameras.

    `data_dir` is not read: another `seed` draws others. The constants are those of seed 0, rounded.
    """
    drawn = [camera(each, PICTURES, seed) for each in range(CAMERAS)]
    inputs, labels = (np.concatenate(each) for each in zip(*drawn, strict=True))
    return Dataset(
        name="shapes",
        train=Examples(inputs, labels, np.repeat(np.arange(CAMERAS), PICTURES)),
        test=None,
        classes=CLASSES,
        input_shape=(3, SIZE, SIZE),
        mean=np.array([0.455, 0.445, 0.445], np.float32).reshape(3, 1, 1),
        std=np.array([0.263, 0.263, 0.266], np.float32).reshape(3, 1, 1),
        scale=1 / 255,
    )


def camera(which: int, pictures: int, seed: int = 0) -> tuple[Array, Array]:
    """Returns what one camera takes: pictures (n, 3, 32, 32) uint8, and classes (n, 32, 32) int64.

    Each has a place of its own: how light it is, of which colour and from which side the light comes, how much its
    sensor adds, what stripes lie behind, and how often each shape passes. Draws are alike on every machine.
    """
    light, falloff, side, noise, stripes, pitch, turn = uniforms(seed, f"camera {which} light", 7)
    tint = 0.94 + 0.06 * uniforms(seed, f"camera {which} tint", 3)
    ground = 0.38 + 0.14 * uniforms(seed, f"camera {which} ground", 3)
    often = 0.5 - np.log1p(-uniforms(seed, f"camera {which} shapes", len(CLASSES) - 1))  # a flat Dirichlet's draw
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2

    def along(turned: float) -> Numbers:
        """From -1 to 1 across the picture, in a direction of so many turns."""
        distance: Numbers = (x * np.cos(2 * np.pi * turned) + y * np.sin(2 * np.pi * turned)) / (SIZE / 2)
        return distance

    behind = 0.12 * stripes * np.sin(np.pi * (2 + 4 * pitch) * along(turn))
    passing = 0.3 * (uniforms(seed, f"camera {which} grounds", (pictures, 3, 1, 1)) - 0.5)
    colours = passing + ground[:, None, None] + np.broadcast_to(behind, (pictures, 3, SIZE, SIZE))
    labels = np.zeros((pictures, SIZE, SIZE), np.int64)
    for shape in range(_MOST):
        _add(colours, labels, often / often.sum(), uniforms(seed, f"camera {which} shape {shape}", (pictures, 9)))
    # the day passes over every camera: what is theirs alone is less than what they all see
    hour = 0.7 + 0.6 * uniforms(seed, f"camera {which} hours", (pictures, 1, 1, 1))
    lit = hour * (0.9 + 0.2 * light) * (1 + 0.3 * falloff * along(side)) * tint[:, None, None]
    # the difference of two is a triangle's density, close to a bell
    one, other = uniforms(seed, f"camera {which} noise", (2, *colours.shape))
    seen = colours * lit + (0.05 + 0.1 * noise) * (one - other)
    return np.rint(255 * np.clip(seen, 0, 1)).astype(np.uint8), labels


def _add(colours: Numbers, labels: Array, often: Numbers, draws: Numbers) -> None:
    """Draw a shape into each picture, or none; in place, over what is there."""
    there, kind, row, column, radius, turn, *colour = draws.T[..., None, None]
    kinds = np.searchsorted(np.cumsum(often)[:-1], kind)
    radius, angle = 6 + 5 * radius, np.pi / 6 * (turn - 0.5)
    y, x = np.mgrid[:SIZE, :SIZE]
    y, x = y - (4 + (SIZE - 9) * row), x - (4 + (SIZE - 9) * column)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    thirds = [u * np.cos(each) + v * np.sin(each) for each in 2 * np.pi * np.arange(3) / 3]
    reach = np.choose(kinds, [np.hypot(u, v), 1.2 * np.maximum(np.abs(u), np.abs(v)), 1.5 * np.maximum.reduce(thirds)])
    # three times in ten there is none
    inside = (reach <= radius) & (there < 0.7)
    labels[:] = np.where(inside, kinds + 1, labels)
    # vivid: each colour is far from any ground
    vivid = np.stack([np.where(each < 0.5, 0.3 * each, 0.7 + 0.3 * each) for each in colour], 1)
    colours[:] = np.where(inside[:, None], vivid, colours)
