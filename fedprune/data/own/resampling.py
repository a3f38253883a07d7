"""A sound at another rate, by the Fourier transform of pieces that overlap."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_SECONDS = 8

Samples = npt.NDArray[np.float32]


def resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    """Return ``samples`` (n,), ``rate`` of them a second, as ceil(n · wanted / rate), ``wanted`` a second.

    What is above half of the lower rate is cut off. Pieces are of whole seconds, which are whole samples at both rates,
    and each is transformed with a second of what lies before and behind it, where a transform's ends meet.
    """
    length = -(-len(samples) * wanted // rate)
    return np.concatenate(list(_pieces(samples, rate, wanted)))[:length]


def _pieces(samples: Samples, rate: int, wanted: int) -> Iterator[Samples]:
    for start in range(0, len(samples), _SECONDS * rate):
        here = samples[max(0, start - rate) : start + (_SECONDS + 1) * rate]
        before = min(start, rate)
        seconds = min(_SECONDS, -(-(len(samples) - start) // rate))
        piece = np.zeros((seconds + 2) * rate, np.float32)
        piece[rate - before : rate - before + len(here)] = here[: len(piece) - rate + before]
        yield _transformed(piece, (seconds + 2) * wanted)[wanted : (seconds + 1) * wanted]


def _transformed(piece: Samples, length: int) -> Samples:
    """A piece as ``length`` samples of the same time, taken as periodic."""
    spectrum = np.fft.rfft(piece.astype(np.float64))
    kept = np.zeros(length // 2 + 1, np.complex128)
    below = (min(len(piece), length) + 1) // 2  # bins below half of either rate
    kept[:below] = spectrum[:below]
    return (np.fft.irfft(kept, length) * (length / len(piece))).astype(np.float32)
