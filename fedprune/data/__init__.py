"""Data: load a data set, split it over devices, feed a model. Needs numpy only; readers are imported when used."""

from fedprune.data.augment import crop_and_flip
from fedprune.data.catalogue import NAMES, load
from fedprune.data.examples import DataError, Dataset, Examples, Schema, unscaled, validate
from fedprune.data.hub import load_from_hub
from fedprune.data.partition import Partition, dirichlet, iid, natural, shards
from fedprune.data.parts import DeviceData, Federation
from fedprune.data.split import federate

__all__ = [
    "DataError",
    "Dataset",
    "DeviceData",
    "Examples",
    "Federation",
    "NAMES",
    "Partition",
    "Schema",
    "crop_and_flip",
    "dirichlet",
    "federate",
    "iid",
    "load",
    "load_from_hub",
    "natural",
    "shards",
    "unscaled",
    "validate",
]
