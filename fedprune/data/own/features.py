"""What a model of sounds sees: log mel bands and MFCCs of a recording, by tables that the C of a chip shares."""

import math
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from fedprune.experiment.own_data import Sounds
from fedprune.types import Tensor

LOW_HZ, HIGH_HZ = 20.0, 8000.0
"""Where the lowest band begins; where the highest ends, or at half the rate where that is lower."""
MFCC_BANDS = 40
FLOOR = 2.0**-27
"""The least energy of a band, where a full-scale tone has 1: 81 dB below, as far down as a transform in float32 hears
anything beside such a tone."""

_MOST_POINTS = 2**16
_NOTHING = 1e-6
"""A weight where rounding has left something of none: at half the rate, whose power no transform in place keeps."""


class Tables(NamedTuple):
    """All constants of the features of one setting; with them `features` is a few lines in any language."""

    stride: int
    """Samples from one frame to the next; frame f begins at sample f · stride."""
    window: Tensor
    """(2 · stride,) float32: Hann's, (2 / stride) · sin²(π n / (2 · stride)), which gives a full-scale tone power 1."""
    points: int
    """Of the Fourier transform: the next power of two, zeros behind the window."""
    bins: Tensor
    """(n,) bins of the spectrum, those of the first band, then those of the next, and so on; neighbours share bins."""
    weights: Tensor
    """(n,) float32, of each of these bins in its band: triangles of height 1, evenly apart in mel."""
    starts: Tensor
    """(bands,) where each band begins among them."""
    cosines: Tensor | None
    """(coefficients, bands) float32, the orthonormal DCT-II; None where bands are the features."""


def tables(settings: Sounds) -> Tables:
    """Return the constants of mel features.

    F frames have a stride of ``samples // (F + 1)`` and windows of twice that, which overlap by half: 49 frames of one
    second at 16 kHz are 40 ms, every 20 ms. MFCCs are of 40 bands. Raises ``ValueError``, the key and what would be
    right, for ``raw`` and where a band holds no bin of the spectrum.
    """
    kind, frames, values = settings.kind()
    if kind == "raw":
        raise ValueError("sounds.features 'raw' has no tables: mfccFxC and logmelFxB have")
    count = values if kind == "logmel" else MFCC_BANDS
    if kind == "mfcc" and values > MFCC_BANDS:
        raise ValueError(
            f"sounds.features {settings.features!r}: {MFCC_BANDS} coefficients are the most that bands give"
        )
    stride = settings.samples // (frames + 1)
    points = 1 << (2 * stride - 1).bit_length()
    if points > _MOST_POINTS:
        raise ValueError(
            f"sounds.features {settings.features!r}: frames of {2 * stride} samples are longer than {_MOST_POINTS}; "
            "more frames will do"
        )
    low, high = _mel(np.array([LOW_HZ, min(settings.rate / 2, HIGH_HZ)]))
    apart = (high - low) / (count + 1)
    if apart <= 0:
        raise ValueError(f"sounds.rate {settings.rate} leaves no band above {LOW_HZ:g} Hz: {2 * LOW_HZ:g} is too low")
    centres = low + apart * np.arange(1, count + 1)
    pitches = _mel(np.arange(points // 2 + 1) * settings.rate / points)
    bands = np.maximum(0, 1 - np.abs(pitches - centres[:, None]) / apart)
    held, bins = np.nonzero(bands > _NOTHING)
    if len(np.unique(held)) < count:
        raise ValueError(
            f"sounds.features {settings.features!r}: some of {count} bands lie between two bins of a window of "
            f"{2 * stride} samples; fewer frames or fewer bands will do"
        )
    window = np.sin(np.pi * np.arange(2 * stride) / (2 * stride)) ** 2 * (2 / stride)
    cosines = None if kind == "logmel" else _dct(values, count).astype(np.float32)
    weights, starts = bands[held, bins].astype(np.float32), np.searchsorted(held, np.arange(count))
    return Tables(stride, window.astype(np.float32), points, bins, weights, starts, cosines)


def features(samples: Tensor, settings: Sounds) -> Tensor:
    """Return what a model sees of sounds, float32 (n, 1, frames, values); of ``raw`` the samples, (n, 1, samples).

    Each frame, with x its samples and h, M, D the window, the bands' weights and the cosines of `tables`, is

        D · ln(max(M · |FFT(h · x)|², 2⁻²⁷)), without D for logmel.

    An example's numbers do not depend on those beside it: not by a bit.

    Args:
        samples: (n, settings.samples) float32 in [-1, 1), those of 16 bits divided by 32,768.
        settings: whose ``features`` say how many frames and values.

    Raises:
        ValueError: as `tables`, and for samples of another shape.
    """
    if samples.ndim != 2 or samples.shape[1] != settings.samples:
        raise ValueError(f"samples of shape {samples.shape}; expected (n, {settings.samples})")
    kind, frames, values = settings.kind()
    if kind == "raw":
        return samples.astype(np.float32)[:, None]
    constants = tables(settings)
    found = np.empty((len(samples), 1, frames, values), np.float32)
    for one, into in zip(samples, found, strict=True):
        into[0] = _of_one(one, frames, constants)
    return found


def _of_one(samples: Tensor, frames: int, constants: Tables) -> Tensor:
    # In float64, so that what is left of the order of sums is far below a step of float32; without a library's matrix
    # product, whose threads take ten times as long where cores are busy.
    stride, window = constants.stride, constants.window.astype(np.float64)
    framed = sliding_window_view(samples[: (frames + 1) * stride], len(window))[::stride]
    spectrum = np.fft.rfft(framed * window, constants.points)
    power = spectrum.real**2 + spectrum.imag**2
    energies = np.add.reduceat(power[:, constants.bins] * constants.weights, constants.starts, axis=1)
    levels = np.log(np.maximum(energies, FLOOR))
    return levels if constants.cosines is None else np.asarray(np.einsum("fb,cb->fc", levels, constants.cosines))


def _mel(hertz: Tensor) -> Tensor:
    """HTK's scale."""
    return np.asarray(2595 * np.log10(1 + hertz / 700))


def _dct(rows: int, columns: int) -> Tensor:
    angles = math.pi / columns * np.arange(rows)[:, None] * (np.arange(columns) + 0.5)
    lengths = np.where(np.arange(rows) == 0, 1, 2)[:, None] / columns
    return np.asarray(np.sqrt(lengths) * np.cos(angles))
