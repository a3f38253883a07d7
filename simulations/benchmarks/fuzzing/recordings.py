"""A device's own folder: files of every kind that are no such, and what a device makes of them."""

from __future__ import annotations

import io
import os
import tempfile
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedprune.counter_rng import generator
from fedprune.data import DataError, own
from fedprune.data.agreement import schema_of, seen_by_one, tell
from fedprune.experiment import Data
from fedprune.experiment.own_data import Pictures, Sounds, Tables
from simulations.benchmarks.fuzzing.mutate import SEPARATOR
from simulations.benchmarks.fuzzing.target import Target

SETTINGS: Mapping[str, Data] = {
    "sounds": Data("sounds", partition="own", sounds=Sounds(seconds=0.1, rate=8000, features="mfcc5x10")),
    "pictures": Data("pictures", partition="own", pictures=Pictures((8, 8), 3)),
    "tables": Data("tables", partition="own", tables=Tables(("ax", "ay"), window=8, step=4)),
    "arrays": Data("arrays", partition="own"),
}
"""Kind of recordings -> how its files are read."""


def _sound() -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(generator(0, "sound").integers(-3000, 3000, 900, np.int16).tobytes())
    return content.getvalue()


def _picture(form: str) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(generator(0, "picture").integers(0, 256, (9, 12, 3), np.uint8)).save(content, form)
    return content.getvalue()


def _table() -> bytes:
    values = generator(0, "table").normal(size=(20, 2)).round(3)
    rows = [f"{x},{y},{'walk' if at < 12 else 'run'}" for at, (x, y) in enumerate(values.tolist())]
    return "\n".join(["ax,ay,label", *rows, ""]).encode()


def _parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    values, content = generator(0, "table").normal(size=(20, 2)), io.BytesIO()
    columns = {"ax": values[:, 0], "ay": values[:, 1], "label": ["walk"] * 12 + ["run"] * 8}
    pyarrow.parquet.write_table(pyarrow.table(columns), content)
    return content.getvalue()


def _arrays(inputs: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, inputs=inputs, labels=np.arange(len(inputs)) % 3)
    return content.getvalue()


def _seeds() -> Sequence[bytes]:
    """``kind name`` of a file, and its content."""
    noise = generator(0, "arrays").normal(size=(9, 1, 4, 4))
    files = {
        "sounds one.wav": _sound(),
        **{f"pictures one.{form}": _picture(form) for form in ("png", "jpeg", "gif", "bmp", "webp", "tiff")},
        "tables one.csv": _table(),
        "tables one.parquet": _parquet(),
        "arrays one.npz": _arrays(noise.astype(np.float32)),
        "arrays bytes.npz": _arrays((100 + 20 * noise).astype(np.uint8)),
    }
    return [name.encode() + SEPARATOR + content for name, content in files.items()]


def _take(data: bytes) -> None:
    """A folder with an honest file of a label and a spoilt one: what a device reads, and says of it."""
    head, _, content = data.partition(SEPARATOR)
    kind, _, name = head.decode(errors="replace").partition(" ")
    settings = SETTINGS.get(kind, SETTINGS["arrays"])
    with tempfile.TemporaryDirectory() as path:
        os.environ["XDG_CACHE_HOME"] = f"{path}/cache"  # what is kept goes when the folder does
        file = Path(path) / "people" / "label" / (Path(name).name.replace("\0", "")[:100] or "nameless")
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        recorded = own.read(settings, file.parent.parent)
        assert all(line.isprintable() for line in recorded.problems)
        assert np.isfinite(recorded.inputs).all()
        mine = seen_by_one(settings, recorded)
        schema = schema_of(mine)
        told = tell(settings, schema, own.parts(mine, recorded, schema.classes)[0])
        assert np.isfinite(told.mean).all()
        assert (told.m2 >= 0).all()


TARGETS = {"recordings": Target(_seeds, _take, (DataError, OSError))}
