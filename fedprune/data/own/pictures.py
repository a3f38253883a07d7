"""Pictures of any size and kind, by Pillow, as (C, H, W) of one byte a value."""

import warnings
from typing import Any

import numpy as np

from fedprune.data.cache import Bytes
from fedprune.data.own.folders import File, label_of
from fedprune.data.own.recorded import Piece, Unusable
from fedprune.data.sources import require
from fedprune.experiment.own_data import Pictures

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif")
)
_MOST = 2**25
"""Pixels of a picture that is decoded: some 100 MB of colours, and as much again where it is turned upright."""


def read(file: File, settings: Pictures) -> Piece:
    """Return a picture as one example, (1, C, H, W) uint8. Unusable or Pillow's own errors where it is none."""
    label = label_of(file)
    image = require("PIL.Image", "pictures")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in a file and can be read nevertheless
            warnings.simplefilter("error", image.DecompressionBombWarning)
            with image.open(file.path) as opened:
                pixels = _pixels(opened, settings)
    except (image.DecompressionBombWarning, image.DecompressionBombError) as error:
        raise Unusable(f"a picture of more than {image.MAX_IMAGE_PIXELS:,} pixels; make it smaller") from error
    return Piece(pixels[None], [label], [file.name])


def _pixels(picture: Any, settings: Pictures) -> Bytes:
    height, width = settings.size
    # decodes a large JPEG at a fraction of its size, still twice what is wanted
    picture.draft(None, (2 * max(height, width), 2 * max(height, width)))
    if picture.width * picture.height > _MOST:
        raise Unusable(f"a picture of more than {_MOST:,} pixels; make it smaller")
    upright = require("PIL.ImageOps", "pictures").exif_transpose(picture)
    plain = _without_alpha(_eight_bits(upright)).convert("L" if settings.channels == 1 else "RGB")
    if plain.size != (width, height):
        # Pillow's filters widen as they shrink a picture, so nothing aliases
        plain = plain.resize((width, height), require("PIL.Image", "pictures").Resampling.BICUBIC)
    pixels: Bytes = np.asarray(plain, np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _eight_bits(picture: Any) -> Any:
    """A picture whose greys have 16 bits with 8, rounded; Pillow itself would cut off all that is above 255."""
    if picture.mode == "F":
        raise Unusable("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if not picture.mode.startswith("I"):
        return picture
    greys = np.asarray(picture).astype(np.int64).clip(0, 65535)
    return require("PIL.Image", "pictures").fromarray(((greys * 255 + 32767) // 65535).astype(np.uint8))


def _without_alpha(picture: Any) -> Any:
    """A picture on black where it is transparent: what lies under transparency is nothing anybody saw."""
    if not picture.has_transparency_data:
        return picture
    image, seen = require("PIL.Image", "pictures"), picture.convert("RGBA")
    return image.alpha_composite(image.new("RGBA", seen.size, (0, 0, 0, 255)), seen)
