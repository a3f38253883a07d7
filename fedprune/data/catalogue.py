"""Names of data sets become loaders here, once, at the door; a dotted name brings the user's own."""

from collections.abc import Callable
from pathlib import Path

from fedprune import own_code
from fedprune.data import cifar10, digits, keywords, plays, shapes, ucihar
from fedprune.data.examples import DataError, Dataset, validate
from fedprune.data.hub import load_from_hub
from fedprune.tasks import CLASSIFICATION, Task

FROM_FILES: dict[str, Callable[[Path], Dataset]] = {
    "cifar10": cifar10.load,
    "keywords": keywords.load,
    "plays": plays.load,
    "ucihar": ucihar.load,
}
"""Data sets that lie in a folder."""

FROM_NOTHING: dict[str, Callable[[Path | None], Dataset]] = {"digits": digits.load, "shapes": shapes.load}
"""Data sets that lie nowhere: a package embeds them, or a seed draws them."""

NAMES = (*FROM_NOTHING, *FROM_FILES)
"""Every name that `load` knows by itself."""


def load(name: str, data_dir: Path | None = None, task: Task = CLASSIFICATION) -> Dataset:
    """Returns the data set called `name`: one of `NAMES`, or "my_package.data:load", called as load(data_dir=...).

    A set that lies in files is read from `data_dir`, or fetched through Flower Datasets where that is None.
    Labels are those of `task`. Raises `DataError` with one line that names the culprit and what would be right.
    """
    if ":" in name:
        return validate(_load_own(name, data_dir), task)
    if name in FROM_NOTHING:
        return validate(FROM_NOTHING[name](data_dir), task)
    if name not in FROM_FILES:
        known = ", ".join(NAMES)
        raise DataError(
            f"no data set is called {name!r}: choose one of {known}, or name your own as my_package.data:load"
        )
    return validate(load_from_hub(name) if data_dir is None else FROM_FILES[name](data_dir), task)


def _load_own(name: str, data_dir: Path | None) -> Dataset:
    module_name, _, function_name = name.partition(":")
    try:
        loader = own_code.imported(name)
    except AttributeError as error:
        if own_code.place(error, name):
            raise DataError(f"{name}: {own_code.raised(error, name)}") from error
        said = f"module {module_name!r} has no attribute {function_name!r}"
        raise DataError(f"{name}: {said}; expected a function that takes data_dir and returns a Dataset") from error
    except Exception as error:  # somebody else's code: it may fail in any way
        if own_code.place(error, name):
            raise DataError(f"{name}: {own_code.raised(error, name)}") from error
        raise DataError(f"{name}: {module_name!r} cannot be imported: {error}") from error
    if not callable(loader):
        raise DataError(f"{name} is a {type(loader).__name__}, expected a function that takes data_dir")
    if wrong := own_code.misfit(loader, data_dir=data_dir):
        raise DataError(f"{name}: {wrong}")
    try:
        dataset = loader(data_dir=data_dir)
    except Exception as error:
        where = f"failed on {data_dir}: " if data_dir else ""
        raise DataError(f"{name}: {where}{own_code.raised(error, name)}") from error
    if not isinstance(dataset, Dataset):
        where = own_code.defined(loader).removesuffix(": ")
        returned = f"{name} returned a {type(dataset).__name__}, expected a fedprune.data.Dataset"
        raise DataError(f"{returned}; it begins in {where}" if where else returned)
    return dataset
