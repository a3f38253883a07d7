"""From a user's own net and data to files, in one command; stopped and gone on with; written again."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedprune.cli.ended import summary
from fedprune.cli.progress import Display
from fedprune.experiment import load
from fedprune.export.chip.card import C99_FORMS
from fedprune.federated.rounds.model import read
from fedprune.pruning import masks


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_everything_is_there_and_listed(finished: Path) -> None:
    said = (finished.parent / "finished.txt").read_text()
    for name in (
        "model.npz",
        "model.tflite",
        "microcontroller/model_data.h",
        "microcontroller/model.c",
        "microcontroller/main.c",
        "metrics.jsonl",
        "result.json",
        "report.html",
    ):
        assert (finished / name).stat().st_size > 0, name
        assert f"finished/{Path(name).parts[0]}" in said, name
    assert (finished / "microcontroller" / "model_data.c").exists()
    assert not [path.name for path in finished.rglob(".*")]  # no drafts are left
    assert re.search(r"^ +2 +\d+\.\d+ % .*masks change", said, re.MULTILINE)
    assert "Traceback" not in said


def test_result_json(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    rows, state = lines(finished), read(finished / "checkpoint.fedprune")
    assert result["name"] == "tiny"
    assert result["seed"] == 0
    assert result["rounds"] == state.round == 2
    assert result["model"] == "own_world:net"
    assert result["data"] == "own_world:load"
    assert 0 <= result["accuracy_int8"] <= 1
    *_, tested, checked = rows
    assert (tested["phase"], checked["phase"], checked["devices"]) == ("evaluate", "check", 3)
    assert result["accuracy_float"] == tested["accuracy"]  # torch on all test parts, as the last round had it
    assert result["density"] == masks.density(state.masks) == pytest.approx(0.3, rel=0.02)
    pruned = sum(int((~mask).sum()) for mask in state.masks.values())
    parameters = sum(value.size for name, value in state.params.items() if "running" not in name and "num" not in name)
    assert result["parameters"] == parameters
    assert result["parameters_kept"] == parameters - pruned
    assert result["density_all"] == pytest.approx(1 - pruned / parameters)
    assert result["bytes_up"] == sum(row["bytes_up"] for row in rows)  # type: ignore[misc]
    assert result["bytes_down"] == sum(row["bytes_down"] for row in rows)  # type: ignore[misc]
    assert result["bytes"]["int8 .tflite, compacted"] == (finished / "model.tflite").stat().st_size
    assert result["arena_bytes"] is None or 0 < result["arena_bytes"] < 200_000
    if "no_c" not in result:
        card = json.loads((finished / "microcontroller" / "model_card.json").read_text())
        for form, key in C99_FORMS.items():
            assert result["bytes"][form] == result[key] == card[key] == card["size_bytes"][form]
        assert result["c99_constants_bytes"] < result["c99_flash_bytes_predicted"]
    assert {"fedprune", "python", "flwr", "numpy", "torch"} <= set(result["versions"])
    assert result["checks"]["litert_float"]["agreement"] == 1.0


def test_the_summary_says_what_a_microcontroller_gives(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())

    def said(**changed: object) -> str:
        out = io.StringIO()
        summary(Console(file=out, width=200), {**result, **changed}, finished)
        return " ".join(out.getvalue().split())

    known = said(c99_flash_bytes_predicted=9700, c99_arena_bytes=4080, arena_bytes=6496)
    assert "microcontroller, C99 about 9,700 bytes of flash in all; 4,080 of static RAM" in known
    assert f"{result['bytes']['int8, zeros left out, for microcontrollers']:,} bytes and the runtime's code;" in known
    older = said(c99_flash_bytes_predicted=None, c99_arena_bytes=4080)
    assert "microcontroller, C99 4,080 bytes of static RAM" in older
    assert "no C: too wide" in said(c99_arena_bytes=None, no_c="too wide")


def test_metrics_have_a_line_for_each_round_and_phase(finished: Path) -> None:
    rows = lines(finished)
    for row in rows:
        assert {"round", "phase", "accuracy", "loss", "density", "bytes_up", "bytes_down", "seconds"} <= set(row)
    assert [(row["round"], row["phase"]) for row in rows] == [
        (0, "bn_statistics"), (0, "losses"), (0, "evaluate"),
        *((round, phase) for round in (1, 2) for phase in ("train", "top_gradients", "evaluate")),
        (2, "check"),
    ]  # fmt: skip


def test_the_model_file_holds_the_checkpoints_model(finished: Path) -> None:
    state = read(finished / "checkpoint.fedprune")
    with np.load(finished / "model.npz") as model:
        assert set(model.files) == {*state.params, *(f"mask/{name}" for name in state.masks)}
        for name, value in state.params.items():
            assert model[name].tobytes() == value.tobytes()
        for name, mask in state.masks.items():
            np.testing.assert_array_equal(model[f"mask/{name}"], mask)
            assert not model[name][~mask].any()


def test_the_report_needs_no_other_host(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    for found in re.findall(r"""(?:src|href|xlink:href|action|data)\s*=\s*["']?([^"'\s>]+)""", page):
        assert found.startswith(("#", "data:")), found
    assert not re.search(r"@import|url\(\s*[\"']?https?:|<script[^>]+src|fetch\(", page)
    assert "own_world:net" in page
    assert "tiny" in page


def test_files_are_written_again_byte_for_byte(
    fedprune: Callable[..., tuple[int, str, str]], finished: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    written = {
        "litert": ["model.tflite", "model_float.tflite"],
        "microcontroller": [f"microcontroller/{path.name}" for path in (finished / "microcontroller").iterdir()],
    }
    for target, names in written.items():
        for name in names:
            (copy / name).unlink()
        code, out, _ = fedprune("export", "copy", "--to", target)
        assert code == 0
        for name in names:
            assert f"copy/{name}  {(finished / name).stat().st_size:,} bytes" in out
    (copy / "report.html").unlink()
    code, out, _ = fedprune("report", "copy")
    assert (code, out) == (0, "copy/report.html\n")
    before = {path.relative_to(finished): path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    after = {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert before.keys() == after.keys()
    for name in before:
        assert before[name] == after[name], name


def test_stopped_with_ctrl_c_in_training_and_gone_on_with_the_command_it_says(
    world: Path,
    finished: Path,
    running: "Callable[..., subprocess.Popen[str]]",
    fedprune: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = running("simulate", "tiny.toml", "--workers", "2", "--out", "a stopped one")
    folder, until = world / "a stopped one", time.monotonic() + 120
    while (
        not (folder / "checkpoint.fedprune").exists()
        # training follows at once, and most of the run with it, so that a busy machine does not miss it
        or '"round": 0, "phase": "evaluate"' not in (folder / "metrics.jsonl").read_text()
    ):
        assert stopped.poll() is None, stopped.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does: to the server and its workers
    out, err = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, (out, err)
    assert "Traceback" not in out + err
    assert not (folder / "result.json").exists()
    command = err.strip().splitlines()[-1].strip()
    name, *words = shlex.split(command)
    assert name == "fedprune"
    assert words[-1] == "--resume"
    stopped_after = read(folder / "checkpoint.fedprune").round
    assert 0 <= stopped_after < 2

    shutil.copytree(folder, world / "a copy")
    monkeypatch.chdir(world)
    for command in (words, ["resume", "a copy", "--workers", "1"]):
        code, _, err = fedprune(*command)
        assert code == 0, err
    for file in ("checkpoint.fedprune", "model.npz", "model.tflite", "microcontroller/model_data.c"):
        assert (folder / file).read_bytes() == (finished / file).read_bytes(), file
        assert (world / "a copy" / file).read_bytes() == (finished / file).read_bytes(), file
    rows = [(row["round"], row["phase"]) for row in lines(folder)]
    assert rows == [(row["round"], row["phase"]) for row in lines(finished)]
    assert len(set(rows)) == len(rows) == 3 + 2 * 3 + 1


def test_too_few_devices_end_with_1_and_the_command_to_go_on(
    fedprune: Callable[..., tuple[int, str, str]], world: Path
) -> None:
    code, _, err = fedprune(
        "simulate", str(world / "tiny.toml"), "--set", "training.learning_rate=1e39", "--set", "training.engine=torch",
        "--set", "method.name=fedavg", "--set", "method={name='fedavg'}", "--workers", "1",
    )  # fmt: skip
    assert code == 1
    first, second, third = err.strip().splitlines()
    assert re.match(r"round 1, train: 0 of 3 devices answered well\. device 0: RuntimeError: .*overflow", first)
    assert "go on with" in second
    assert third.split()[0] == "fedprune"
    assert third.endswith("--resume")


def test_training_that_diverges_ends_with_2_and_a_line_that_says_where_and_what_helps(
    fedprune: Callable[..., tuple[int, str, str]], world: Path
) -> None:
    code, _, err = fedprune(
        "simulate", str(world / "tiny.toml"), "--set", "training.learning_rate=1e30", "--set",
        "method={name='fedavg'}", "--workers", "1",
    )  # fmt: skip
    assert code == 2
    (line,) = err.strip().splitlines()
    assert re.match(r"round 1, train: 0 of 3 devices answered well\. device 0: diverged in step \d: the loss is", line)
    assert re.search(r"; largest value: \S+ in \S+; .*lower training.learning_rate \(1e\+30 here\)", line)


def test_a_finished_run_is_made_anew_and_nothing_old_is_left(
    fedprune: Callable[..., tuple[int, str, str]], world: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    code, _, _ = fedprune(
        "simulate", str(world / "tiny.toml"), "--out", "run", "--set", "training.learning_rate=1e30", "--fresh",
        "--workers", "1",
    )  # fmt: skip
    assert code == 2  # all devices diverge
    left = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert not {"model.npz", "model.tflite", "model_float.tflite", "result.json", "report.html"} & left
    assert read(tmp_path / "run" / "checkpoint.fedprune").round == 0


def test_faults_are_shown_as_they_are(tmp_path: Path, world: Path) -> None:
    out = io.StringIO()
    experiment = load(world / "tiny.toml")
    fault = "RuntimeError: [enforce fail at alloc_cpu.cpp:115] [/] data: [red]"
    row = {"round": 0, "phase": "train", "density": 0.5, "bytes_up": 1, "bytes_down": 1, "seconds": 0.1}
    with Display(Console(file=out, width=80), experiment, Path("runs/[/a] [bold]")) as display:
        display({**row, "faults": {"3": fault}})
        display({"phase": "export"})
    assert f"device 3, train: {fault}\n" in out.getvalue()
    assert "tiny -> runs/[/a] [bold]\n" in out.getvalue()
