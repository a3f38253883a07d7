"""A run that starts from weights trained elsewhere: every form of them, and what is said where they do not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_world
import torch

from fedprune.experiment import ExperimentError, load, to_json
from fedprune.experiment import for_devices as carried
from fedprune.runs.pretraining import pretrain
from fedprune.runs.run import simulate
from fedprune.runs.setting import prepare
from fedprune.types import Params


def given() -> Params:
    """Weights that no seed here gives."""
    setting = prepare(tiny_world.experiment(seed=7), "test")
    return pretrain(setting).params


def started(file: Path, **changes: Any) -> Params:
    experiment = tiny_world.experiment(pretraining={"weights": str(file), **changes})
    return pretrain(prepare(experiment, "test")).params


def same(one: Params, other: Params) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def as_npz(params: Params, file: Path) -> Path:
    np.savez(file.with_suffix(".npz"), **params)  # type: ignore[arg-type]
    return file.with_suffix(".npz")


def as_pt(params: Params, file: Path) -> Path:
    torch.save({name: torch.from_numpy(np.array(value)) for name, value in params.items()}, file.with_suffix(".pt"))
    return file.with_suffix(".pt")


def as_checkpoint(params: Params, file: Path) -> Path:
    state = {f"module.{name}": torch.from_numpy(np.array(value)) for name, value in params.items()}
    torch.save({"epoch": 3, "state_dict": state}, file.with_suffix(".pth"))
    return file.with_suffix(".pth")


def as_safetensors(params: Params, file: Path) -> Path:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file({name: np.array(value, order="C") for name, value in params.items()}, file.with_suffix(".safetensors"))
    return file.with_suffix(".safetensors")


@pytest.mark.parametrize("save", [as_npz, as_pt, as_checkpoint, as_safetensors])
def test_a_run_starts_from_what_a_file_holds(save: Callable[[Params, Path], Path], tmp_path: Path) -> None:
    params = given()
    assert same(started(save(params, tmp_path / "model")), params)
    # unless it is asked for epochs besides
    assert not same(started(save(params, tmp_path / "model"), epochs=1), params)


def test_a_run_starts_from_an_earlier_run(tmp_path: Path) -> None:
    simulate(tiny_world.experiment(rounds=1), tmp_path / "first")
    with np.load(tmp_path / "first" / "model.npz") as file:
        held = {name: file[name] for name in file.files if not name.startswith("mask/")}
    assert same(started(tmp_path / "first"), held)


def test_without_rounds_a_given_model_is_pruned_and_exported(tmp_path: Path) -> None:
    params = given()
    file = as_npz(params, tmp_path / "model")
    experiment = tiny_world.experiment(
        rounds=0, pretraining={"weights": str(file)}, method={"name": "magnitude", "density": 0.3}
    )
    result = simulate(experiment, tmp_path / "run", engine=tiny_world.HERE)
    assert (result["rounds"], result["density"]) == (0, pytest.approx(0.3, abs=0.01))
    with np.load(tmp_path / "run" / "model.npz") as found:
        masks = {name.removeprefix("mask/"): found[name] for name in found.files if name.startswith("mask/")}
        for name, value in params.items():
            kept = masks.get(name, np.ones(value.shape, np.bool_))
            assert np.array_equal(found[name], np.where(kept, value, 0)), name
    assert (tmp_path / "run" / "report.html").exists()


def test_what_does_not_fit_is_one_line_that_names_the_first_tensor(tmp_path: Path) -> None:
    params = given()
    first = next(iter(params))
    place = tmp_path / "model"
    counters = {name: value for name, value in params.items() if not name.endswith("num_batches_tracked")}
    started(as_npz(counters, place))  # which other libraries do not keep
    for changed, why in (
        ({name: value for name, value in params.items() if name != first}, f"holds no {first}, of shape "),
        ({**params, first: params[first][:1]}, f"{first} has shape {params[first][:1].shape}, the model's "),
        ({**params, first: params[first].astype(np.complex64)}, f"'{first}' is no tensor"),
        ({**params, "more": np.ones(3, np.float32)}, "holds more, which the model has not"),
        ({**params, first: params[first] * np.float32(np.nan)}, f"{first} holds a value that is not finite"),
        ({}, f"holds no {first}, of shape "),
    ):
        file = as_npz(changed, place)
        with pytest.raises(ExperimentError) as refused:
            started(file)
        assert f"pretraining.weights: {file}: {why}" in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("missing.pt", None, "cannot be read (No such file"),
        ("model.h5", b"", "expected .npz, .pt, .pth, .safetensors"),
        ("folder", None, "expected .npz"),
        ("cut.npz", b"PK\3\4 cut", "damaged, or no .npz"),
        ("cut.pt", b"PK\3\4 cut", "damaged, or no .pt"),
        ("cut.safetensors", b"\0" * 9, "damaged, or no .safetensors"),
    ],
)
def test_what_cannot_be_read_is_one_line(name: str, content: bytes | None, why: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExperimentError) as refused:
        started(tmp_path / name)
    assert f"{tmp_path / name}: {why}" in str(refused.value)
    assert "\n" not in str(refused.value)


class Evil:
    """An object whose unpickling would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil"),)


def test_a_file_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ExperimentError, match=r"damaged, or no \.pt of tensors"):
        started(tmp_path / "evil.pt")
    assert not (tmp_path / "evil").exists()


def test_nothing_is_written_where_weights_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"pretraining\.weights"):
        simulate(tiny_world.experiment(pretraining={"weights": "/nowhere.npz"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_place_is_where_the_command_was_given_and_no_device_learns_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.toml").write_text(
        'model = "digits_cnn"\nrounds = 1\n[data]\nname = "digits"\ndevices = 2\n[method]\nname = "fedavg"\n'
    )
    monkeypatch.chdir(tmp_path)
    experiment = load(tmp_path / "tiny.toml", ["pretraining.weights=model.npz"])
    assert experiment.pretraining.weights == str(tmp_path / "model.npz")
    assert str(tmp_path) not in to_json(carried(experiment))
