"""Small made-up data sets for the laws."""

import numpy as np

from fedprune.data import Dataset, Examples


def numbered(labels: np.ndarray, people: np.ndarray | None = None, first: int = 0) -> Examples:
    """Examples whose input is their own number, so that a test sees where each went."""
    inputs = np.arange(first, first + len(labels), dtype=np.float32)[:, None]
    return Examples(inputs, labels.astype(np.int64), None if people is None else people.astype(np.int64))


def made_up(train: Examples, test: Examples | None, classes: int, overlap: int = 0) -> Dataset:
    """A data set of one-number examples."""
    one = np.ones(1, np.float32)
    names = tuple(str(label) for label in range(classes))
    return Dataset("made-up", train, test, names, (1,), 0 * one, one, overlap=overlap)
