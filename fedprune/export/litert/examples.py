"""Examples that somebody gives for calibration: an .npz, an .npy, or a folder of them, as a file's inputs take them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from fedprune.export.litert.flatbuffer import File, FileTensor
from fedprune.types import FloatTensor, Tensor

_MOST = 500
"""Examples that are used."""
_SUFFIXES = (".npy", ".npz")


def examples(file: File, path: Path) -> list[list[FloatTensor]]:
    """Return up to 500 examples of a file's inputs: for each of them, the inputs in order, without a batch.

    Of several inputs the arrays are told apart by the inputs' names, else by their order; of one, the array may be
    called anything but ``labels`` or ``y``. Raises ``ValueError`` for what holds no examples that fit.
    """
    ports = [file.tensors[index] for index in file.inputs]
    found = list[list[FloatTensor]]()
    for each in _files(path):
        arrays = _chosen(_arrays(each), ports, each)
        if len({len(array) for array in arrays}) > 1:
            raise ValueError(f"{each}: the arrays of its inputs have {[len(array) for array in arrays]} examples")
        found += [[*rows] for rows in zip(*arrays, strict=True)]
        if len(found) >= _MOST:
            break
    if not found:
        raise ValueError(f"{path}: holds no examples")
    return found[:_MOST]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES)
        if not found:
            raise ValueError(f"{path}: holds neither .npy nor .npz files")
        return found
    if path.suffix not in _SUFFIXES or not path.is_file():
        raise ValueError(f"{path}: is neither an .npz nor an .npy nor a folder of them")
    return [path]


def _arrays(path: Path) -> Mapping[str, Tensor]:
    try:
        with path.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            return {name: found[name] for name in found.files} if path.suffix == ".npz" else {"": found}
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as numpy writes it") from error


_LABELS = ("labels", "label", "y", "targets")


def _chosen(arrays: Mapping[str, Tensor], ports: Sequence[FileTensor], path: Path) -> list[FloatTensor]:
    names = [port.name for port in ports]
    if len(ports) > 1 and all(name in arrays for name in names):
        picked = [arrays[name] for name in names]
    else:
        picked = [array for name, array in arrays.items() if name not in _LABELS][: len(ports)]
    if len(picked) < len(ports):
        raise ValueError(f"{path}: has {len(picked)} arrays for the model's {len(ports)} inputs")
    return [_fitting(array, port, path) for array, port in zip(picked, ports, strict=True)]


def _fitting(array: Tensor, port: FileTensor, path: Path) -> FloatTensor:
    inner = port.shape[1:] if len(port.shape) > 1 else port.shape
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: has an array of {array.dtype}, which are no numbers")
    alone = _without_ones(array.shape) == _without_ones(inner)
    several = _without_ones(array.shape[1:]) == _without_ones(inner)
    if not (alone or several) or not array.size:
        raise ValueError(f"{path}: has an array of shape {array.shape}; the model takes {inner}, channels last, each")
    found: FloatTensor = array.reshape(-1 if several else 1, *inner).astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{path}: has values that are not finite")
    return found


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
