"""``fedprune train``: the experiment of a simulation on one holder of all data, in the same folder, without Flower."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from process_tools import python_path

from fedprune.federated.rounds.model import read

Run = Callable[..., tuple[int, str, str]]
SHORT = ("--set", "training.epochs=2")

WITHOUT_FLOWER = """
import sys
from fedprune.cli.main import main
sys.argv = ["fedprune", "train", "tiny.toml", "--set", "training.epochs=2", "--out", "central"]
main()
loaded = sorted({name.partition(".")[0] for name in sys.modules} & {"flwr", "ray", "grpc"})
sys.exit(f"loaded {loaded}" if loaded else 0)
"""


@pytest.fixture(scope="module")
def trained(world: Path) -> Path:
    """A central run, in a process that has loaded nothing of Flower's."""
    environment = {**os.environ, "PYTHONPATH": python_path(world)}
    command = [sys.executable, "-c", WITHOUT_FLOWER]
    done = subprocess.run(command, cwd=world, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0.00 MB up, 0.00 MB down" in done.stdout
    return world / "central"


def test_the_folder_is_that_of_a_simulation(trained: Path, finished: Path) -> None:
    def files(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    assert files(trained) == files(finished)
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (trained, finished)
    )
    assert [(row["round"], row["phase"]) for row in ours] == [(row["round"], row["phase"]) for row in theirs]
    for mine, others in zip(ours, theirs, strict=True):
        assert {*others} - {*mine} <= {"worst", "mean_device"}  # of one device none is the worst
        assert {*mine} <= {*others}
        assert mine["bytes_up"] == mine["bytes_down"] == 0
        assert mine["asked"] == [0]
    result, federated = (json.loads((folder / "result.json").read_text()) for folder in (trained, finished))
    assert result.keys() == federated.keys()
    assert result["devices"] == 1
    assert result["accuracy_float"] == ours[-2]["accuracy"] > 0.8
    tested = [[check["examples"] for check in each["checks"].values()][:2] for each in (result, federated)]
    assert tested[0] == tested[1]


def test_resume_knows_a_central_run_and_ends_in_the_same_model(fedprune: Run, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    for name in ("result.json", "model.npz", "model.tflite"):
        (tmp_path / "run" / name).unlink()
    shutil.copy(trained / "checkpoint.before.fedprune", tmp_path / "run" / "checkpoint.fedprune")
    assert read(tmp_path / "run" / "checkpoint.fedprune").done != read(trained / "checkpoint.fedprune").done
    code, out, err = fedprune("resume", "run")
    assert (code, err) == (0, "")
    assert "0.00 MB up, 0.00 MB down" in out
    for name in ("checkpoint.fedprune", "model.npz", "model.tflite"):
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes(), name


def test_neither_a_simulation_nor_a_central_run_goes_on_with_the_other(
    fedprune: Run, world: Path, trained: Path, finished: Path, tmp_path: Path
) -> None:
    for folder in (trained, finished):
        shutil.copytree(folder, tmp_path / folder.name)
    file = str(world / "tiny.toml")
    for command, folder in (("train", "finished"), ("simulate", "central")):
        code, _, err = fedprune(command, file, "--out", folder, "--resume", *SHORT)
        assert code == 2
        assert err.startswith(f"{folder}: holds another experiment")


def test_what_is_left_out_of_an_experiment_is_said_in_a_line_each(fedprune: Run, world: Path) -> None:
    plain = ("train", str(world / "tiny.toml"), "--set", "rounds=0", "--set", "method={name='magnitude', density=0.5}")
    code, out, _ = fedprune(
        *plain, "--set", "data.devices=0", "--set", "privacy.epsilon=0.5",
        "--set", "fleet={pi={devices=2, density=0.25}, mcu={devices=1, trains=false}}",
    )  # fmt: skip
    assert code == 0
    said = " ".join(out.split())
    assert "privacy: left out, without noise: what one holder of all data computes stays with it" in said
    assert "fleet: left out; one holder trains the largest part, that of pi: density 0.25" in said
    assert Path("runs/tiny_central/model.tflite").exists()  # beside the simulation's folder, runs/tiny
    assert "density 0.25" in said


def test_what_cannot_be_run_is_one_line_and_writes_nothing(fedprune: Run, world: Path, tmp_path: Path) -> None:
    code, _, err = fedprune("train", str(world / "tiny.toml"), "--set", "method.densty=1")
    assert code == 2
    assert err.count("\n") == 1
    assert "method.densty: unknown key" in err
    assert [*tmp_path.iterdir()] == []


def test_what_diverges_ends_with_2_and_what_helps(fedprune: Run, world: Path) -> None:
    fedavg = ("--set", "method={name='fedavg'}", "--set", "training.learning_rate=1e30")
    code, _, err = fedprune("train", str(world / "tiny.toml"), *fedavg)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("round 1, train: diverged in step ")
    assert "lower training.learning_rate" in line
