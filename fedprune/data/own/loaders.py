"""One's own loader of a device's folder, by its dotted name."""

from pathlib import Path

import numpy as np

from fedprune.data.catalogue import load
from fedprune.data.examples import DataError
from fedprune.data.own.recorded import Recorded


def read(name: str, folder: Path) -> Recorded:
    """Return what ``name``, as in ``my_module:load``, gives of ``folder``: its training and its test examples together.

    Recordings are train#ROW and test#ROW. DataError where it gives no data set, or one whose examples overlap: which of
    them are of one recording, nobody could tell.
    """
    dataset = load(name, folder)
    if dataset.overlap:
        raise DataError(
            f"{name}: overlap is {dataset.overlap}, and windows of one recording could end up in different parts: "
            'use data.name = "tables", or arrays with recordings'
        )
    splits = [("train", dataset.train), *([("test", dataset.test)] if dataset.test is not None else [])]
    inputs = np.concatenate([examples.inputs for _, examples in splits])
    return Recorded(
        inputs if inputs.dtype == np.uint8 else inputs.astype(np.float32),
        tuple(dataset.classes[label] for _, examples in splits for label in examples.labels.tolist()),
        tuple(f"{split}#{row}" for split, examples in splits for row in range(len(examples))),
    )
