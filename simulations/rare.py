"""Digits half of which are rare, as findings are among pictures of healthy people: what imbalance does to pruning."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedprune.data import Dataset, digits


def load(data_dir: Path | None = None) -> Dataset:
    """Return the digits, of 5 to 9 one in twenty to train on; as many of each to test on, so that all count alike."""
    whole = digits.load(data_dir)
    assert whole.train is not None
    order = np.random.default_rng(0).permutation(len(whole.train))
    labels = whole.train.labels[order]
    train, test = list[np.ndarray](), list[np.ndarray]()
    for each in range(10):
        of = order[labels == each]
        test.append(of[:50])
        train.append(of[50 : 50 + (6 if each > 4 else len(of))])
    examples = (whole.train.take(np.sort(np.concatenate(parts))) for parts in (train, test))
    return Dataset("rare digits", *examples, whole.classes, whole.input_shape, whole.mean, whole.std, scale=whole.scale)
