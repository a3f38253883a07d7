"""scikit-learn's 1,797 handwritten digits of 8x8 pixels: no download, no official test split."""

from pathlib import Path

import numpy as np

from fedprune.data.examples import Dataset, Examples
from fedprune.data.sources import require


def load(data_dir: Path | None = None) -> Dataset:
    """Returns the digits, inputs (1797, 1, 8, 8) uint8 in 0..16. `data_dir` is not read: scikit-learn embeds them.

    The constants are those of all examples, rounded to two digits: there is no official training split.
    Raises `DataError` where scikit-learn is missing.
    """
    stored = require("sklearn.datasets", "simulation").load_digits()
    return Dataset(
        name="digits",
        train=Examples(stored.images[:, None].astype(np.uint8), stored.target.astype(np.int64)),
        test=None,
        classes=tuple(str(digit) for digit in range(10)),
        input_shape=(1, 8, 8),
        mean=np.full((1, 1, 1), 0.31, np.float32),
        std=np.full((1, 1, 1), 0.38, np.float32),
        scale=1 / 16,
    )
