"""The same data sets by name through Flower Datasets, where there is a network."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from fedprune.data import cifar10, keywords, plays, ucihar
from fedprune.data.cache import Bytes, cached
from fedprune.data.examples import DataError, Dataset, Examples, validate
from fedprune.data.sources import require

CIFAR10 = "uoft-cs/cifar10"

UNFAITHFUL = {
    "digits": "scikit-learn embeds it: load it without a hub",
    "shapes": "a seed draws them: load them without a hub",
    "ucihar": f"the sets there hold 561 computed features, not the nine signals and subjects; {ucihar.REMEDY}",
    "keywords": f"the sets there are other words or raw audio, not these MFCCs and speakers; {keywords.REMEDY}",
    "plays": f"the sets there are cut in other ways; {plays.REMEDY}",
}
"""Why a name has no faithful set on the hub, and what to do instead."""


def load_from_hub(name: str) -> Dataset:
    """Returns the data set called `name` as the hub has it, equal to what `load` reads from files.

    Raises `DataError` where the hub has no faithful set of that name, is out of reach, or flwr-datasets is missing.
    """
    if name != "cifar10":
        reason = UNFAITHFUL.get(name, "no such data set; the hub serves cifar10")
        raise DataError(f"{name}: not available through Flower Datasets: {reason}")
    federated = require("flwr_datasets", "hub").FederatedDataset
    # Without a network its client would report each of its attempts; what is raised in the end says it in one line.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        # Unshuffled, so that an index means the same example as in files.
        source = federated(dataset=CIFAR10, partitioners={}, shuffle=False)
        splits = [source.load_split("train"), source.load_split("test")]
    except (OSError, ValueError) as error:  # OSError holds every network failure
        raise DataError(f"{name}: {CIFAR10} cannot be fetched ({error}); {cifar10.REMEDY}") from error
    return validate(cifar10.assemble(*(cifar10_examples(split) for split in splits)))


def cifar10_examples(split: Any) -> Examples:
    """Returns a `datasets.Dataset` of columns img and label as examples, (n, 3, 32, 32) uint8, decoded once a machine.

    Raises `DataError` where a column is missing or an image cannot be decoded.
    """
    missing = [column for column in ("img", "label") if column not in split.column_names]
    if missing:
        raise DataError(f"cifar10: {CIFAR10} has no column {missing[0]} but {', '.join(split.column_names)}")
    labels = np.asarray(split["label"], np.int64)

    def make() -> Bytes:
        undecoded = split.cast_column("img", require("datasets", "hub").Image(decode=False))
        return cifar10.decode([image["bytes"] for image in undecoded["img"]], CIFAR10)

    files = [Path(file["filename"]) for file in split.cache_files]
    # A data set in memory has no file whose change would tell that the cache is stale.
    images = cached("cifar10-hub", files, (len(labels), *cifar10.SHAPE), make) if files else make()
    return Examples(images, labels)
