"""CIFAR-10 (Krizhevsky 2009): 60,000 colour images of 32x32 pixels in ten classes, in the layout of uoft-cs/cifar10."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedprune.data.cache import Bytes, cached
from fedprune.data.examples import DataError, Dataset, Examples
from fedprune.data.sources import existing, integers, read_parquet, require

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
REMEDY = (
    "give --data-dir a folder that holds cifar10/train.parquet and cifar10/test.parquet of the Hugging Face set "
    "uoft-cs/cifar10, or leave it out on a machine with a network and fedprune[hub]"
)


def load(data_dir: Path) -> Dataset:
    """Returns CIFAR-10 from `data_dir`/cifar10/{train,test}.parquet, inputs (n, 3, 32, 32) uint8.

    The first load decodes all images (seconds) into the user's cache. Raises `DataError` naming what is missing.
    """
    folder = data_dir / "cifar10"
    return assemble(*(_split(existing("cifar10", folder / f"{split}.parquet", REMEDY)) for split in ("train", "test")))


def assemble(train: Examples, test: Examples | None) -> Dataset:
    """Returns the data set made of its two splits, with the constants of the 50,000 training images."""
    return Dataset(
        name="cifar10",
        train=train,
        test=test,
        classes=CLASSES,
        input_shape=SHAPE,
        mean=np.array([0.4914, 0.4822, 0.4465], np.float32).reshape(3, 1, 1),
        std=np.array([0.2470, 0.2435, 0.2616], np.float32).reshape(3, 1, 1),
        scale=1 / 255,
        augment=True,
    )


def decode(images: Sequence[bytes], source: str) -> Bytes:
    """Returns encoded `images` (PNG, WebP, ...) as uint8 (n, 3, 32, 32); `DataError` names `source` and the row."""
    image = require("PIL.Image", "simulation")
    pixels = np.empty((len(images), *SHAPE), np.uint8)
    # One thread: on images this small several only wait for the interpreter's lock (measured: twice as slow).
    for row, encoded in enumerate(images):
        try:
            decoded = np.asarray(image.open(io.BytesIO(encoded)).convert("RGB"))
        except (OSError, TypeError, ValueError) as error:
            raise DataError(f"cifar10: {source}, row {row}, holds no image that can be decoded: {error}") from error
        if decoded.shape != (32, 32, 3):
            raise DataError(f"cifar10: {source}, row {row}, is an image of {decoded.shape}, expected (32, 32, 3)")
        pixels[row] = decoded.transpose(2, 0, 1)
    return pixels


def _split(path: Path) -> Examples:
    labels = integers("cifar10", path, read_parquet("cifar10", path, ("label",), REMEDY), "label")

    def make() -> Bytes:
        column = read_parquet("cifar10", path, ("img",), REMEDY)["img"].combine_chunks()
        try:
            images = column.field("bytes").to_pylist()
        except (AttributeError, KeyError) as error:
            raise DataError(f"cifar10: column img of {path} is {column.type}, expected {{bytes, path}}") from error
        return decode(images, str(path))

    return Examples(cached(f"cifar10-{path.stem}", [path], (len(labels), *SHAPE), make), labels)
