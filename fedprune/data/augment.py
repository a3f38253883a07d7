"""Random crops and flips of image batches, in numpy, before normalisation or after."""

import numpy as np

from fedprune.data.examples import Array


def crop_and_flip(images: Array, rng: np.random.Generator, padding: int = 4) -> Array:
    """Returns `images` (n, C, H, W), each shifted by up to `padding` pixels and mirrored with probability 1/2.

    As usual for CIFAR: pad all sides with zeros, cut a random (H, W) window. The dtype is kept; the argument is not
    changed. On raw images the padding is black, on normalised ones the mean colour.
    """
    count, channels, height, width = images.shape
    padded = np.zeros((count, channels, height + 2 * padding, width + 2 * padding), images.dtype)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    tops, lefts = rng.integers(2 * padding + 1, size=(2, count))
    flips = rng.random(count) < 0.5
    # (n, C, 2p+1, 2p+1, H, W), a view: the one copy is the gather below.
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    cropped: Array = windows[np.arange(count), :, tops, lefts]
    cropped[flips] = cropped[flips, :, :, ::-1]
    return cropped
