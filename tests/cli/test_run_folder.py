"""A run's folder: one process's at a time, checked when it is read, whole when it cannot be written any more."""

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedprune.federated.rounds.model import read, save

Command = Callable[..., tuple[int, str, str]]
HELD = "in-use.json"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def same_model(one: Path, other: Path) -> bool:
    with np.load(one / "model.npz") as here, np.load(other / "model.npz") as there:
        return here.files == there.files and all(here[n].tobytes() == there[n].tobytes() for n in here.files)


def refused(ended: tuple[int, str, str], *words: str, code: int = 2) -> None:
    assert (ended[0], ended[2].count("\n")) == (code, 1), ended
    for word in words:
        assert word in ended[2]


@pytest.fixture
def busy(world: Path, tmp_path: Path, running: Callable[..., "subprocess.Popen[str]"]) -> Iterator[Path]:
    """The folder of a run under way, which is killed in the end."""
    folder = tmp_path / "busy"
    first = running("simulate", "tiny.toml", "--out", str(folder), "--workers", "1", "--set", "training.epochs=400")
    until = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < until and first.poll() is None:
        time.sleep(0.05)
    assert first.poll() is None
    yield folder
    first.kill()
    first.communicate()


def test_a_folder_in_use_is_refused_with_who_uses_it(busy: Path, fedprune: Command, world: Path) -> None:
    pid, rows = json.loads((busy / HELD).read_text())["pid"], (busy / "metrics.jsonl").read_bytes()
    name, asked = str(busy), str(world / "tiny.toml")
    for words in (
        ("simulate", asked, "--out", name, "--seed", "1", "--fresh"),
        ("simulate", asked, "--out", name, "--set", "training.epochs=400", "--resume"),
        ("resume", name),
    ):
        refused(
            fedprune(*words), f"{name}: in use by process {pid} (", "simulate tiny.toml --out", "wait until it ends"
        )
    assert (busy / "metrics.jsonl").read_bytes().startswith(rows)
    assert json.loads((busy / "experiment.json").read_text())["seed"] == 0


def test_a_finished_run_that_is_run_again_is_refused_to_readers_that_write(
    world: Path, copy: Path, fedprune: Command
) -> None:
    from fedprune.runs.folder import RunFolder

    with RunFolder(copy).held():
        for words in (("report", str(copy)), ("export", str(copy), "--to", "litert")):
            refused(fedprune(*words), f"{copy}: in use by process {os.getpid()} (")
    assert not (copy / HELD).exists()
    assert fedprune("report", str(copy))[0] == 0


def test_a_lock_ends_with_its_process(
    world: Path, tmp_path: Path, running: Callable[..., "subprocess.Popen[str]"], fedprune: Command, finished: Path
) -> None:
    folder = tmp_path / "killed"
    first = running("simulate", "tiny.toml", "--out", str(folder), "--workers", "1")
    while not (folder / "checkpoint.fedprune").exists():
        assert first.poll() is None
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert (folder / HELD).exists()
    code, _, errors = fedprune("resume", str(folder), "--workers", "1")
    assert code == 0, errors
    assert same_model(folder, finished)


def test_a_tier_cannot_lead_out_of_the_folder(copy: Path, fedprune: Command) -> None:
    asked = json.loads((copy / "experiment.json").read_text())
    tier = {"devices": 3, "trains": True}
    (copy / "experiment.json").write_text(json.dumps({**asked, "fleet": {"../../escaped": tier}}))
    for words in (("export", str(copy), "--to", "litert"), ("report", str(copy)), ("resume", str(copy))):
        refused(fedprune(*words), f"{copy}/experiment.json: fleet: '../../escaped' names a folder")
    assert not (copy.parents[1] / "escaped").exists()


@pytest.mark.parametrize("name", ["microcontroller", "tiers"])
def test_no_link_in_a_folder_is_followed(name: str, copy: Path, fedprune: Command, world: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(copy / name, ignore_errors=True)
    (copy / name).symlink_to(outside)
    if name == "microcontroller":
        refused(fedprune("export", str(copy), "--to", "microcontroller"), f"{copy}/{name}: is a link")
    again = ("simulate", str(world / "tiny.toml"), "--out", str(copy), "--workers", "1", "--fresh")
    code, _, errors = fedprune(*again, "--set", "training.epochs=1")
    assert code == 0, errors
    assert not list(outside.iterdir())
    assert not (copy / name).is_symlink()


def test_lines_that_are_no_rows_are_left_out_and_said(copy: Path, fedprune: Command, finished: Path) -> None:
    whole = (copy / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    bad = [
        b"{}\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"round": 1, "phase": "train", "bytes_up": "many"}\n',
        b"nul\n",
    ]
    (copy / "metrics.jsonl").write_bytes(b"".join([*bad, *whole]))
    code, out, _ = fedprune("report", str(copy))
    assert code == 0
    assert f"{copy}/metrics.jsonl: {len(bad)} damaged lines are left out" in out
    assert (copy / "report.html").read_text() == (finished / "report.html").read_text()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{}", "missing required field"), (b"[]", "Expected"), (b"\xff", "utf-8"), (b"[" * 100_000, "nested"),
        (None, "no result yet"),
    ],
)  # fmt: skip
def test_a_damaged_result_is_one_line(content: bytes | None, why: str, copy: Path, fedprune: Command) -> None:
    (copy / "result.json").unlink()
    if content is not None:
        (copy / "result.json").write_bytes(content)
    for words in (("export", str(copy), "--to", "litert"), ("report", str(copy))):
        refused(fedprune(*words), why, f"fedprune resume {copy}")


def test_results_forms_and_tiers_are_those_of_the_experiment(copy: Path, fedprune: Command) -> None:
    result = json.loads((copy / "result.json").read_text())
    for key, more in (("tiers", {"pi": {}}), ("checks", {}), ("bytes", {})):
        (copy / "result.json").write_text(json.dumps({**result, key: more}))
        refused(fedprune("report", str(copy)), f"{copy}/result.json: damaged ")


def test_a_damaged_checkpoint_costs_a_phase_and_a_word(copy: Path, fedprune: Command, finished: Path) -> None:
    last = (copy / "checkpoint.fedprune").read_bytes()
    (copy / "checkpoint.fedprune").write_bytes(last[:-100])
    refused(fedprune("report", str(copy)), f"{copy}/checkpoint.fedprune: damaged", "fedprune resume")
    code, out, _ = fedprune("resume", str(copy), "--workers", "1")
    assert code == 0
    assert "checkpoint.fedprune: damaged (its checksum does not fit); going on from the one before, of round 2" in out
    assert same_model(copy, finished)
    assert (copy / "checkpoint.fedprune").read_bytes() == last
    phases = [(row["round"], row["phase"]) for row in map(json.loads, (copy / "metrics.jsonl").open())]
    assert phases == [(row["round"], row["phase"]) for row in map(json.loads, (finished / "metrics.jsonl").open())]


def test_two_damaged_checkpoints_are_one_line(copy: Path, fedprune: Command) -> None:
    for name in ("checkpoint.fedprune", "checkpoint.before.fedprune"):
        (copy / name).write_bytes(b"")
    refused(fedprune("resume", str(copy)), f"{copy}/checkpoint.fedprune: damaged", "start over with --fresh")


def test_a_checkpoint_of_something_else_is_refused(copy: Path, fedprune: Command) -> None:
    file = copy / "checkpoint.fedprune"
    state = read(file)
    name = next(iter(state.params))
    wrong = {
        "shapes": {**state.params, name: state.params[name][:1]},
        "names": {f"{key}x": value for key, value in state.params.items()},
        "types": {key: value.astype(np.float64) for key, value in state.params.items()},
    }
    for params in wrong.values():
        save(replace(state, params=params, masks={}), file)
        refused(fedprune("resume", str(copy)), f"{file}: holds another model than own_world:net")
        refused(fedprune("export", str(copy), "--to", "litert"), f"{file}: holds another model")
    save(replace(state, round=7), file)
    refused(fedprune("resume", str(copy)), f"{file}: is of round 7, of 2")
    save(replace(state, standing='{"missed": 1}'), file)
    refused(fedprune("resume", str(copy)), f"{file}: says nonsense of devices")
    mask = next(iter(state.masks))
    save(replace(state, masks={mask: state.masks[mask][:1]}), file)
    (copy / "checkpoint.before.fedprune").unlink()
    refused(fedprune("resume", str(copy)), f"{file}: damaged ({mask!r} is no mask of the model)")


def test_a_file_in_the_folders_place(world: Path, tmp_path: Path, fedprune: Command) -> None:
    (tmp_path / "file").write_text("mine")
    asked = str(world / "tiny.toml")
    for place in (tmp_path / "file", tmp_path / "file" / "inner"):
        refused(fedprune("simulate", asked, "--out", str(place)), f"{tmp_path}/file", "--out")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def read_only(copy: Path) -> Iterator[Path]:
    """A finished run that nobody can write to, not even root."""
    if os.geteuid():
        copy.chmod(0o555)
        yield copy
        copy.chmod(0o755)
        return
    mount = ["mount", "--bind", str(copy), str(copy)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("root may not mount here")
    subprocess.run(["mount", "-o", "remount,bind,ro", str(copy)], check=True)
    yield copy
    subprocess.run(["umount", str(copy)], check=True)


def test_a_folder_that_cannot_be_written(read_only: Path, world: Path, fedprune: Command) -> None:
    name, asked = str(read_only), str(world / "tiny.toml")
    for words in (
        ("simulate", asked, "--out", name, "--fresh"), ("simulate", asked, "--out", f"{name}/inner"), ("resume", name),
        ("report", name), ("export", name, "--to", "microcontroller"),
    ):  # fmt: skip
        refused(fedprune(*words), f"{name}", "cannot be written (")


def test_a_folder_that_is_removed_in_mid_run(busy: Path, world: Path, tmp_path: Path, fedprune: Command) -> None:
    busy.rename(tmp_path / "moved away")
    # the same name, another run: nothing of the first may land there
    asked = str(world / "tiny.toml")
    code, _, errors = fedprune("simulate", asked, "--out", str(busy), "--workers", "1", "--set", "rounds=1")
    assert code == 0, errors
    assert json.loads((busy / "result.json").read_text())["rounds"] == 1


def test_a_run_whose_folder_is_removed_says_so(
    world: Path, tmp_path: Path, running: Callable[..., "subprocess.Popen[str]"]
) -> None:
    folder = tmp_path / "gone"
    first = running("simulate", "tiny.toml", "--out", str(folder), "--workers", "1")
    while not (folder / "checkpoint.fedprune").exists():
        assert first.poll() is None
        time.sleep(0.02)
    folder.rename(tmp_path / "moved away")
    _, errors = first.communicate(timeout=120)
    assert (first.returncode, errors) == (2, f"{folder}: was removed while it was written to; start over\n")
    assert not folder.exists()


@pytest.mark.parametrize("most", [100, 900, 2_200, 4_000, 9_000, 20_000, 30_000])
def test_a_disk_that_is_full_anywhere_stops_a_run_that_goes_on(
    most: int, world: Path, tmp_path: Path, fedprune: Command, finished: Path
) -> None:
    # files of at most so many bytes: what fails first is metrics, the checkpoint, model.npz, an export, the report
    folder = tmp_path / "full"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        code, out, errors = fedprune("simulate", str(world / "tiny.toml"), "--out", str(folder), "--workers", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1, out + errors
    first, *rest = errors.splitlines()
    assert first.startswith(f"{folder}/"), errors
    assert first.endswith("File too large")
    assert rest[0].startswith("What is complete is saved; go on with:")
    assert len(rest) == 2
    code, _, errors = fedprune(*shlex.split(rest[1])[1:], "--workers", "1")
    assert code == 0, errors
    assert same_model(folder, finished)
    assert not list(folder.rglob(".*"))
