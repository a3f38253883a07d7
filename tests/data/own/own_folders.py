"""Files as people have them, and settings that read them."""

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedprune.data.own import read
from fedprune.experiment import Data
from fedprune.experiment.own_data import Pictures, Sounds, Tables

SOUNDS = Data("sounds", "own", sounds=Sounds(seconds=0.01, rate=1000, features="raw"))
"""Examples of ten samples."""
PICTURES = Data("pictures", "own", pictures=Pictures(size=(4, 6)))
TABLES = Data("tables", "own", tables=Tables(signals=("ax", "ay"), window=3))
ARRAYS = Data("arrays", "own")


def settings_of_tables(**keys: Any) -> Data:
    """Like ``TABLES``, but for these keys."""
    return Data("tables", "own", tables=Tables(**{"signals": ("ax", "ay"), "window": 3, **keys}))


def write_wav(path: Path, samples: np.ndarray, rate: int = 1000, width: int = 2) -> None:
    """A PCM file of integers (n,) or (n, channels) of ``width`` bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = samples.reshape(len(samples), -1)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(frames.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        if width == 1:
            file.writeframes((frames + 128).astype(np.uint8).tobytes())
        else:
            octets = frames.astype("<i4").reshape(-1, 1).view(np.uint8)
            file.writeframes(octets[:, :width].tobytes())


def write_picture(path: Path, pixels: np.ndarray, **how: Any) -> None:
    """An image file of uint8 (H, W), (H, W, 3) or (H, W, 4)."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)


def write_table(path: Path, rows: Sequence[Sequence[object]], header: str = "ax,ay,label", sign: str = ",") -> None:
    """A text file of a header and rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *(sign.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_arrays(path: Path, **arrays: Any) -> None:
    """An .npz file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def problem(settings: Data, folder: Path) -> str:
    """The only line on what cannot be used."""
    found = read(settings, folder).problems
    assert len(found) == 1, found
    assert "\n" not in found[0]
    return found[0]
