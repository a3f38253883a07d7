"""Weights that were trained elsewhere, to start a run from: .safetensors, .pt, .npz, or an earlier run's folder."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fedprune.experiment import ExperimentError
from fedprune.pruning.parts import is_statistic
from fedprune.types import Masks, Params, Tensor

_COUNTER = ".num_batches_tracked"  # which other libraries do not keep, and no forward pass reads
_WRAPPED = ("state_dict", "model_state_dict", "model")
_PARALLEL = "module."
_MASK = "mask/"


def read(path: Path, model: Params, source: str, second: Mapping[str, str] = MappingProxyType({})) -> Params:
    """The state of ``model``, with the names, shapes and types of its tensors, as a file or a run's folder has it.

    A .pt is read with ``weights_only``, so that it runs no code; what it holds under state_dict is taken, and the
    prefix of torch's DataParallel is dropped; ``second`` names of shared tensors are let be. ExperimentError, beginning
    with ``source``, names the first tensor that does not fit, in the model's order.
    """
    where = f"{source}: pretraining.weights: {path}"
    given = _plain(_tensors(path, where), where)
    state: dict[str, Tensor] = {}
    for name, own in model.items():
        if name not in given:
            if not name.endswith(_COUNTER):
                raise ExperimentError(f"{where}: holds no {name}, of shape {own.shape}; it has {_some(given)}")
            state[name] = own
            continue
        value = given[name]
        if value.shape != own.shape:
            raise ExperimentError(f"{where}: {name} has shape {value.shape}, the model's {own.shape}")
        if not np.can_cast(value.dtype, own.dtype, "same_kind"):
            raise ExperimentError(f"{where}: {name} is {value.dtype}, the model's {own.dtype}")
        if not np.isfinite(value).all():
            raise ExperimentError(f"{where}: {name} holds a value that is not finite")
        state[name] = np.array(value, own.dtype, order="C")
    if more := [name for name in given if name not in model and second.get(name) not in given]:
        raise ExperimentError(f"{where}: holds {more[0]}, which the model has not; it has {_some(model)}")
    return state


def masks(folder: Path, parameters: Mapping[str, Any], source: str) -> Masks:
    """What the run in ``folder`` kept of a model's ``parameters``, each with a shape: those of which it pruned some.

    ExperimentError, beginning with ``source``, where the run has not ended, pruned nothing, or another model.
    """
    where = f"{source}: pretraining.masks: {folder}"
    try:
        with np.load(folder / "model.npz", allow_pickle=False) as file:
            found = {name.removeprefix(_MASK): file[name] for name in file.files if name.startswith(_MASK)}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ExperimentError(f"{where}: no run's folder with a model.npz; name a run that has ended") from error
    except OSError as error:
        raise ExperimentError(f"{where}/model.npz: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # of whatever library reads what is damaged
        raise ExperimentError(f"{where}/model.npz: damaged ({_line(error)})") from error
    for name, value in parameters.items():
        if name in found and found[name].dtype != bool:
            raise ExperimentError(f"{where}: mask/{name} is {found[name].dtype}, expected a boolean mask")
        if name in found and found[name].shape != tuple(value.shape):
            raise ExperimentError(f"{where}: {name} has shape {found[name].shape}, the model's {tuple(value.shape)}")
    # statistics of channels that are gone need no mask of their own
    others = {name: mask for name, mask in found.items() if name not in parameters and not is_statistic(name)}
    if alien := [name for name, mask in others.items() if not mask.all()]:
        raise ExperimentError(f"{where}: that run pruned {alien[0]}, which this model has not; name one of this model")
    kept = {name: found[name] for name in parameters if name in found and not found[name].all()}
    if not kept:
        raise ExperimentError(f"{where}: that run pruned nothing of this model; name one of a method that prunes")
    return kept


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _tensors(path: Path, where: str) -> Mapping[str, Any]:
    if path.is_dir():
        if not (path / "model.npz").is_file():
            raise ExperimentError(f"{where}: no run's folder with a model.npz; name a file, or a run that has ended")
        path = path / "model.npz"
    readers: dict[str, Callable[[Path], Mapping[str, Any]]] = {
        ".npz": _npz, ".pt": _torch, ".pth": _torch, ".safetensors": _safetensors,
    }  # fmt: skip
    if path.suffix not in readers:
        raise ExperimentError(f"{where}: expected {', '.join(readers)}, or a run's folder")
    try:
        found = readers[path.suffix](path)
    except OSError as error:
        raise ExperimentError(f"{where}: cannot be read ({error.strerror or error})") from error
    except ModuleNotFoundError as error:
        raise ExperimentError(f"{where}: {error.name} is not installed here: pip install {error.name}") from error
    except Exception as error:  # each library has errors of its own for a file that is damaged, or none of its kind
        raise ExperimentError(f"{where}: damaged, or no {path.suffix} of tensors ({_line(error)})") from error
    if not isinstance(found, Mapping):
        raise ExperimentError(f"{where}: holds a {type(found).__name__}, expected tensors by name; save a state_dict")
    return found


def _npz(path: Path) -> Mapping[str, Any]:
    if not zipfile.is_zipfile(path):
        path.read_bytes()[:0]  # whatever keeps it from being read is said first
        raise ValueError("not a zip file")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if not name.startswith(_MASK)}


def _torch(path: Path) -> Mapping[str, Any]:
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    for key in _WRAPPED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    return found  # type: ignore[no-any-return]


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    found: Mapping[str, Any] = load_file(path)
    return found


def _plain(found: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Numpy arrays by name, without the prefix of a model that was trained in parallel."""
    given: dict[str, Tensor] = {}
    for name, value in found.items():
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            # numpy has no bfloat16
            value = (value.float() if value.is_floating_point() else value).numpy()
        if not isinstance(name, str) or not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            raise ExperimentError(f"{where}: {name!r:.80} is no tensor; save the model's state_dict")
        given[name] = value
    parallel = bool(given) and all(name.startswith(_PARALLEL) for name in given)
    return {name.removeprefix(_PARALLEL): value for name, value in given.items()} if parallel else given


def _some(names: Mapping[str, Any]) -> str:
    few = list(names)[:3]
    return f"{', '.join(few)}{', …' if len(names) > len(few) else ''}" if few else "nothing"
