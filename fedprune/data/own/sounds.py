"""Recordings of sound as examples of equal length: PCM by the standard library, all else by soundfile."""

import importlib.util
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedprune.data.own.features import features
from fedprune.data.own.folders import File, label_of
from fedprune.data.own.recorded import Piece, Unusable
from fedprune.data.own.resampling import resampled
from fedprune.data.sources import require
from fedprune.experiment.own_data import Sounds

SUFFIXES = frozenset(
    (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64")
)
_PCM = frozenset((".wav", ".wave"))
_BELOW_ONE = np.float32(1 - 2**-24)
_HIGHEST_RATE = 768_000
_BLOCK = 2**16

Samples = npt.NDArray[np.float32]


def read(file: File, settings: Sounds) -> Piece:
    """Return a recording's examples, one after the other, (n, *shape) float32 by the settings' features.

    What is left behind the last whole example counts where it is half an example or more; a recording shorter than
    one always does. Silence fills up both. Unusable, or the libraries' own errors, where there is no sound.
    """
    label = label_of(file)
    samples, rate = decoded(file.path)
    if not samples.size:
        raise Unusable("holds no samples")
    if not np.isfinite(samples).all():
        raise Unusable("holds samples that are no finite numbers")
    if rate != settings.rate:
        if not settings.resample:
            raise Unusable(
                f"has {rate} samples a second, not {settings.rate}; set sounds.resample = true, or convert it"
            )
        samples = resampled(samples, rate, settings.rate)
    cut = examples(np.clip(samples, np.float32(-1), _BELOW_ONE), settings.samples)
    return Piece(features(cut, settings), [label] * len(cut), [file.name] * len(cut))


def examples(samples: Samples, length: int) -> Samples:
    """Return ``samples`` (m,), m of 1 or more, as consecutive examples (n, length), the last filled up by zeros."""
    whole, rest = divmod(len(samples), length)
    count = max(1, whole + (2 * rest >= length))
    padded = np.zeros(count * length, np.float32)
    padded[: len(samples)] = samples[: len(padded)]
    return padded.reshape(count, length)


def decoded(path: Path) -> tuple[Samples, int]:
    """Return a file's samples (n,) float32, the mean of its channels, and how many there are a second.

    What is there of a file that was cut off is all that it gives.
    """
    if path.suffix.lower() in _PCM:
        try:
            with wave.open(str(path), "rb") as file:
                # a float file's 32 bits are refused by the library itself
                return _joined(_by_wave(file)), _plausible(file.getframerate())
        except (wave.Error, EOFError) as error:
            # Python 3.11 reads neither floats, compressed sound, nor what WAVE_FORMAT_EXTENSIBLE holds
            if "unknown" not in str(error):
                raise Unusable(f"no sound ({str(error) or 'it ends too early'})") from error
            return _by_soundfile(path, f"the standard library reads PCM alone ({error})")
    return _by_soundfile(path, f"{path.suffix.lower()} is not read by the standard library")


def can_read_all() -> bool:
    """Whether soundfile is installed here."""
    return importlib.util.find_spec("soundfile") is not None


def _by_wave(file: wave.Wave_read) -> Iterator[Samples]:
    width, channels = file.getsampwidth(), file.getnchannels()
    if width not in (1, 2, 3, 4):
        raise Unusable(f"its samples have {8 * width} bits; expected 8, 16, 24 or 32")
    frame = width * channels
    while block := file.readframes(_BLOCK):
        octets = np.frombuffer(block[: len(block) // frame * frame], np.uint8)
        yield _integers(octets, width).astype(np.float32).reshape(-1, channels) / np.float32(2**31)


def _integers(octets: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.int32]:
    """Samples of ``width`` bytes as 32 bits: theirs are the highest of them."""
    if width == 1:
        octets = octets ^ np.uint8(0x80)  # alone these are without sign
    wide = np.zeros((len(octets) // width, 4), np.uint8)
    wide[:, 4 - width :] = octets.reshape(-1, width)
    return wide.view("<i4")[:, 0].astype(np.int32)


def _by_soundfile(path: Path, why: str) -> tuple[Samples, int]:
    if not can_read_all():
        raise Unusable(f"{why}: pip install 'fedprune[sounds]', or convert it to 16-bit .wav")
    with require("soundfile", "sounds").SoundFile(str(path)) as file:
        return _joined(_blocks(file)), _plausible(file.samplerate)


def _blocks(file: Any) -> Iterator[Samples]:
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        yield block


def _joined(blocks: Iterator[Samples]) -> Samples:
    """The mean of the channels of consecutive blocks (m, channels)."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is said later, in a line
        return np.concatenate([np.zeros(0, np.float32), *(block.mean(axis=1, dtype=np.float32) for block in blocks)])


def _plausible(rate: int) -> int:
    if not 0 < rate <= _HIGHEST_RATE:
        raise Unusable(f"no sound (its header says {rate} samples a second)")
    return rate
