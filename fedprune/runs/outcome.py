"""What a run ends in: the files of its folder, the numbers of result.json, and the report."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from fedprune import __version__, wire
from fedprune import experiment as _experiment
from fedprune.data import Schema
from fedprune.experiment import ExperimentError
from fedprune.experiment.own_data import Sounds
from fedprune.export.chip import sounds
from fedprune.export.chip.card import C99_FORMS
from fedprune.export.chip.write import Written, write_c
from fedprune.federated.rounds.model import State
from fedprune.federated.rounds.phases.check import Told
from fedprune.federated.rounds.rounds import SELECTED
from fedprune.files import write_atomically
from fedprune.pruning import masks
from fedprune.runs import forms as _forms
from fedprune.runs import tier_outcome
from fedprune.runs.folder import RunFolder, inside, total
from fedprune.runs.forms import Check, Forms
from fedprune.runs.int8_facts import int8_facts
from fedprune.runs.report import page
from fedprune.runs.setting import Setting, prepare
from fedprune.tasks import entry, metric_in, value_in
from fedprune.types import DeviceId, Tensor

_PACKAGES = ("flwr", "numpy", "torch", "ai-edge-litert", "tflite-micro")


AskAll = Callable[[Sequence[tuple[str, Forms]], State], list[Mapping[DeviceId, Told]]]
"""((part, its forms), the last state) -> what devices say of each, in order."""


def finish(setting: Setting, folder: RunFolder, state: State, ask_all: AskAll) -> dict[str, Any]:
    """Export, check and report a run that is complete; returns result.json, and writes it last."""
    part = next(iter(state.parts), "")
    whole, state = state, state.view(part)
    folder.still_there()
    model = io.BytesIO()
    np.savez_compressed(model, **state.params, **{f"mask/{name}": mask for name, mask in state.masks.items()})  # type: ignore[arg-type]
    write_atomically(folder.path / "model.npz", model.getvalue())
    made = _made(setting, whole, part, ask_all)
    forms, checked = made[part, 0]
    result = _result(setting, folder, state, forms, checked)
    write_litert(folder.path, forms)
    result |= _write_c(setting, folder.path, forms, result) if not forms.why else {"no_export": forms.why}
    if setting.plan is not None:

        def write(path: Path, forms: Forms, facts: Mapping[str, Any]) -> Mapping[str, Any]:
            write_litert(path, forms)
            return _write_c(setting, path, forms, facts)

        result["tiers"] = tier_outcome.finish(setting, folder, whole, write, lambda *which: made[which])
    folder.write_result(result)
    report(folder)
    return result


def _made(setting: Setting, state: State, part: str, ask_all: AskAll) -> dict[tuple[str, int], tuple[Forms, Check]]:
    """(part, bytes of SRAM) -> forms and how they do, of the whole model and of every tier's; tiers may share one."""
    plans = setting.plan.tiers if setting.plan is not None else {}
    which = [(part, 0), *((plan.part, setting.experiment.fleet[name].sram_bytes) for name, plan in plans.items())]
    made = {
        (each, sram_bytes): _forms.make(setting, state.view(each), sram_bytes, each)
        for each, sram_bytes in dict.fromkeys(which)
    }
    arenas = [_forms.runs_here(setting, forms) for forms in made.values()]
    told = ask_all([(each, forms) for (each, _), forms in made.items()], state)
    checks = [_forms.checked(each, arena, setting.task) for each, arena in zip(told, arenas, strict=True)]
    return {key: (forms, check) for (key, forms), check in zip(made.items(), checks, strict=True)}


def _write_c(setting: Setting, path: Path, forms: Forms, result: Mapping[str, Any]) -> dict[str, Any]:
    # What the C sources take, or why there are none: a run of hours does not fail over what an export writes later.
    try:
        written = write_microcontroller(setting, path, forms, result)
    except (ValueError, RuntimeError) as error:
        return {"no_c": str(error)}
    card = json.loads(written.card_json.read_text(encoding="utf-8"))
    found = {key: card[key] for key in ("c99_arena_bytes", *C99_FORMS.values())}
    return {**found, "bytes": {**result["bytes"], **{form: card[key] for form, key in C99_FORMS.items()}}}


def report(folder: RunFolder) -> Path:
    """Write report.html from the folder's result, metrics and masks; returns its path."""
    result = folder.read_result()
    state = folder.state()
    selected = {name.removeprefix(SELECTED): m for name, m in state.notes.items() if name.startswith(SELECTED)}
    moved = {
        name: int(np.count_nonzero(mask & ~selected[name])) / max(1, int(np.count_nonzero(mask)))
        for name, mask in state.masks.items()
        if name in selected and selected[name].shape == mask.shape
    }
    layers = {"before": masks.densities(selected), "after": masks.densities(state.masks), "moved": moved}
    asked = _experiment.to_toml(folder.experiment())
    path = folder.path / "report.html"
    write_atomically(path, page(result, folder.rows(), layers, asked).encode())
    return path


def write_litert(path: Path, forms: Forms) -> list[Path]:
    """model.tflite (int8, for a phone, a Pi or TensorFlow Lite Micro), and model_float.tflite."""
    if forms.why:
        return []
    files = {"model.tflite": forms.litert_int8, "model_float.tflite": forms.litert_float}
    for name, content in files.items():
        write_atomically(path / name, content)
    return [path / name for name in files]


def write_microcontroller(
    setting: Setting, path: Path, forms: Forms, result: Mapping[str, Any], fastest: bool = False
) -> Written:
    """C sources, the file for TensorFlow Lite Micro, an example program and a model card, in ``microcontroller/``.

    Where TensorFlow Lite Micro does not run the model, there is no file for it.
    """
    from fedprune.export import c99

    schema = setting.schema
    card = {
        "name": result["name"],
        "labels": [*schema.classes[-1:]] if _one_logit(forms, schema) else list(schema.classes),
        **_numbers(setting),
        **entry(metric_in(result), value=value_in(result, "int8")),
        **{key: result[key] for key in ("warnings", "calibration", "signal_to_noise_db") if key in result},
        **_targets(setting),
        "arena_bytes": result["arena_bytes"],
        "size_bytes": result["bytes"],
    }
    optimise, to = c99.fastest if fastest else c99.smallest, inside(path, "microcontroller")
    file = forms.litert_int8 if result["arena_bytes"] is None else forms.micro
    heard = setting.experiment.data.sounds or Sounds() if setting.experiment.data.name == "sounds" else None
    if heard is None:
        return write_c(file, to, card, plain=forms.litert_int8, optimise=optimise)
    written = write_c(file, to, {**card, **sounds.facts(heard)}, plain=forms.litert_int8, optimise=optimise)
    # an example that begins with raw samples comes in the place of the plain one
    return written._replace(firmware=tuple(dict.fromkeys([*written.firmware, *sounds.write(heard, to)])))


def _numbers(setting: Setting) -> dict[str, Any]:
    """How raw inputs become the model's: names of tokens, or what quantities are normalised by."""
    schema = setting.schema
    if setting.task.tokens:
        return {"vocabulary": list(schema.classes)}
    # of raw values, so that a caller has no scale to know of
    mean, std = _in_turn(schema.input_shape, schema.mean / schema.scale, schema.std / schema.scale)
    return {"mean": mean, "std": std}


def _one_logit(forms: Forms, schema: Schema) -> bool:
    """Whether the model has one logit, of the second of two classes."""
    from fedprune.export.litert import ports
    from fedprune.export.litert.reader import read

    return len(schema.classes) == 2 and (ports(read(forms.litert_int8)).output.shape or (0,))[-1] == 1


def _targets(setting: Setting) -> dict[str, Any]:
    """What a model's numbers stand for, where they are normalised targets."""
    schema = setting.schema
    if not schema.target_mean or setting.experiment.task not in ("regression", "depth"):
        return {}
    return {"target_mean": list(schema.target_mean), "target_std": list(schema.target_std)}


def _in_turn(shape: tuple[int, ...], *values: Tensor) -> list[list[float]]:
    """The shortest lists of one length that, repeated, give an input's elements their values, channels last."""
    flat = [np.moveaxis(np.broadcast_to(value, shape), 0, -1).reshape(-1) for value in values]
    size = flat[0].size
    lengths = (n for n in range(1, size + 1) if size % n == 0)
    shortest = next(n for n in lengths if all(np.array_equal(each, np.resize(each[:n], size)) for each in flat))
    return [[float(value) for value in each[:shortest]] for each in flat]


def _result(setting: Setting, folder: RunFolder, state: State, forms: Forms, checked: Check) -> dict[str, Any]:
    experiment, rows = setting.experiment, folder.rows()
    parameters = {name: state.params[name] for name, _ in forms.model.named_parameters()}
    kept_masks = {name: mask for name, mask in state.masks.items() if name in parameters}
    size = sum(value.size for value in parameters.values())
    kept = size - sum(mask.size for mask in kept_masks.values()) + masks.kept(kept_masks)
    return {
        "name": experiment.name,
        "method": experiment.method["name"],
        "model": experiment.model,
        "data": experiment.data.name,
        "devices": len(setting.holds),
        "rounds": state.round,
        "seed": experiment.seed,
        **tier_outcome.outcome_of(checked),
        **int8_facts(forms, checked),
        "density": masks.density(kept_masks),
        "density_all": masks.density_all(parameters, kept_masks),
        "parameters": size,
        "parameters_kept": kept,
        "parameters_compact": forms.parameters or sum(value.numel() for value in forms.compact.parameters()),
        "macs": forms.macs,
        "arena_bytes": checked.arena_bytes,
        "bytes": {
            "float32, dense": 4 * size,
            "masked, coded for the link": len(wire.encode(state.masks) + wire.encode(state.params, state.masks)),
            **(_bytes(forms) if not forms.why else {}),
        },
        "bytes_up": total(rows, "bytes_up"),
        "bytes_down": total(rows, "bytes_down"),
        "seconds": sum(row.get("seconds") or 0 for row in rows),
        "checks": checked.forms,
        "versions": {"fedprune": __version__, "python": platform.python_version(), **_versions()},
    }


def _bytes(forms: Forms) -> dict[str, int]:
    from fedprune.export import litert

    return {
        "float32 .tflite, compacted": len(forms.litert_float),
        "int8 .tflite, dense": len(forms.litert_int8_dense),
        "int8 .tflite, compacted": len(forms.litert_int8),
        "int8 .tflite, compacted, gzip": litert.gzip_bytes(forms.litert_int8),
        "int8, zeros left out, for microcontrollers": len(forms.micro),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def redraw(path: Path) -> Path:
    """Write the report of a finished run again; returns its path. ExperimentError as ``export``."""
    folder = RunFolder(path)
    folder.read_result()
    with folder.held():
        return report(folder)


def export(path: Path, to_microcontroller: bool, data_dir: str | None, fastest: bool = False) -> list[Path]:
    """Write the files for one kind of device from a finished run's folder, tiers' too; returns their paths.

    ExperimentError where the run has not ended, is damaged or in use, where a link leads out of its folder, or where
    its model cannot be had in that form: of which operator there is no rule, and where the model calls it.
    """
    folder = RunFolder(path)
    folder.read_result()
    with folder.held():
        return _exported(folder, to_microcontroller, data_dir, fastest)


def _exported(folder: RunFolder, to_microcontroller: bool, data_dir: str | None, fastest: bool) -> list[Path]:
    result, state = folder.read_result(), folder.state()
    setting = prepare(folder.experiment(), str(folder.path / "experiment.json"), data_dir, folder.agreed())
    setting.fits(state, str(folder.checkpoint))

    def write(to: Path, part: str, sram_bytes: int, facts: Mapping[str, Any]) -> list[Path]:
        forms = _forms.make(setting, state.view(part), sram_bytes, part)
        if forms.why:
            raise ExperimentError(f"{folder.path}: {forms.why}")
        if to_microcontroller:
            try:
                written = write_microcontroller(setting, to, forms, facts, fastest)
            except (ValueError, RuntimeError) as error:
                raise ExperimentError(f"{folder.path}: model: {setting.experiment.model} has no C: {error}") from error
            return written.paths()
        return write_litert(to, forms)

    written = write(folder.path, next(iter(state.parts), ""), 0, result)
    for name, plan in setting.plan.tiers.items() if setting.plan is not None else ():
        sram_bytes = setting.experiment.fleet[name].sram_bytes
        written += write(inside(folder.path, "tiers", name), plan.part, sram_bytes, result["tiers"][name])
    return written
