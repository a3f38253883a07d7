"""A run is watched before it begins, while it grows, when it is resumed and after its end; in a real browser too."""

import importlib.util
import json
import re
import shutil
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from watching import browse, fetch, in_a_browser, served

from fedprune.cli.watch import Watched, server
from fedprune.federated.rounds.model import read
from fedprune.pruning import masks


def lines(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines(keepends=True)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A run's folder that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_json_says_what_the_run_says(finished: Path) -> None:
    with served(finished) as address:
        seen = json.loads(fetch(address + "run.json"))
    rows, result = [json.loads(line) for line in lines(finished)], json.loads((finished / "result.json").read_text())
    state = read(finished / "checkpoint.fedprune")
    assert (seen["name"], seen["state"], seen["round"], seen["rounds_asked"]) == ("tiny", "finished", 2, 2)
    assert seen["parts"][""]["accuracy"] == result["accuracy_float"]
    assert seen["density"] == masks.density(state.masks)
    assert seen["layers"] == {"": masks.densities(state.masks)}
    assert [each["round"] for each in seen["rounds"]] == [0, 1, 2]
    for key in ("bytes_up", "bytes_down"):
        assert sum(each[key] for each in seen["rounds"]) == result[key]
    assert seen["rounds"][1]["phases"] == ["train", "top_gradients", "evaluate"]
    assert [device["device"] for device in seen["devices"]] == [0, 1, 2]
    assert seen["rounds"][2]["phases"] == ["train", "top_gradients", "evaluate", "check"]
    assert {(d["word"], d["phase"], d["round"]) for d in seen["devices"]} == {("answered", "check", 2)}
    worst = rows[-2]["worst"]
    assert seen["devices"][worst["device"]]["worst"] == {"accuracy": worst["accuracy"], "round": 2}


def test_a_run_is_followed_from_before_it_begins_to_its_end(finished: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "later", lines(finished)
    watched = Watched(run)
    assert (watched.picture()["state"], watched.picture()["rounds"]) == ("waiting", [])
    run.mkdir()
    assert watched.picture()["state"] == "waiting"
    shutil.copy(finished / "experiment.json", run)
    (run / "metrics.jsonl").touch()
    assert watched.picture()["state"] == "preparing"
    for count, line in enumerate(whole, 1):
        with (run / "metrics.jsonl").open("a") as file:
            file.write(line[:40])
            file.flush()
            half = watched.picture()
            assert sum(len(each["phases"]) for each in half["rounds"]) == count - 1
            file.write(line[40:])
        seen = watched.picture()
        assert (seen["round"], seen["phase"]) == (json.loads(line)["round"], json.loads(line)["phase"])
        assert sum(len(each["phases"]) for each in seen["rounds"]) == count
        assert seen["state"] == ("ending" if count >= len(whole) - 1 else "running")
    shutil.copy(finished / "checkpoint.fedprune", run)
    assert watched.picture()["layers"][""]
    shutil.copy(finished / "result.json", run)
    assert watched.picture()["state"] == "finished"


def test_a_resumed_run_loses_the_round_that_was_not_complete(copy: Path) -> None:
    (copy / "result.json").unlink()
    watched = Watched(copy)
    assert watched.picture()["round"] == 2
    (copy / "metrics.jsonl").write_text("".join(line for line in lines(copy) if json.loads(line)["round"] < 2))
    assert (watched.picture()["round"], watched.picture()["state"]) == (1, "running")


def test_what_is_damaged_is_left_out(copy: Path) -> None:
    watched, before = Watched(copy), Watched(copy).picture()
    damaged = b'3\n[1]\n{"round": "x", "phase": "train"}\n\xff\xfe\0\0\n{"round": 3}\n'
    odd = (
        '{"round": 2, "phase": "train", "loss": NaN, "bytes_up": "many", "faults": 7, "worst": {"device": 99}, '
        '"refused": {"x": 1}, "accuracy": Infinity}\n'
    )
    (copy / "metrics.jsonl").write_bytes(damaged + (copy / "metrics.jsonl").read_bytes() + odd.encode())
    (copy / "checkpoint.fedprune").write_bytes(b"half")
    after = watched.picture()
    assert "NaN" not in json.dumps(after, allow_nan=False)
    assert after["rounds"][:2] == before["rounds"][:2]
    assert after["rounds"][2]["train"] == {"accuracy": None, "loss": None, "density": None}
    assert after["rounds"][2]["bytes_up"] == before["rounds"][2]["bytes_up"]
    assert after["layers"] == {}  # this one never saw the checkpoint whole
    shutil.rmtree(copy)
    assert watched.picture()["state"] == "waiting"


def test_devices_that_fail_and_refuse_are_named(copy: Path) -> None:
    row: dict[str, Any] = {"round": 2, "phase": "train", "devices": 1, "seconds": 1.0}
    row |= {"faults": {"1": 'no "memory"\n'}, "refused": {"2": {"refused": 3 * 2**20, "memory_bytes": 2**20}}}
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    first, second, third = Watched(copy).picture()["devices"]
    assert (first["word"], second["word"], third["word"]) == ("answered", "failed", "refused")
    assert (second["faults"], second["last_fault"]) == (1, 'no "memory"\n')
    assert (third["refusals"], third["needs_bytes"], third["memory_bytes"]) == (1, 3 * 2**20, 2**20)
    row = {**row, "devices": 0, "faults": {}}  # two of three were not asked, or nobody knows
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**row, "phase": "top_gradients"}) + "\n")
    assert [each["phase"] for each in Watched(copy).picture()["devices"]] == ["train", "train", "top_gradients"]


def test_a_test_that_diverged_is_said(copy: Path) -> None:
    assert "Warning" not in Watched(copy).picture()["said"]
    row = {"round": 2, "phase": "evaluate", "loss": 9e3, "diverged": "the loss is 9e+03"}
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**row, "diverged": 3}) + "\n" + json.dumps(row) + "\n")
    seen = Watched(copy).picture()
    assert "Warning: round 2, evaluate: diverged: the loss is 9e+03." in seen["said"]
    assert [each["diverged"] for each in seen["rounds"][1:]] == ["", "round 2, evaluate: diverged: the loss is 9e+03"]


def test_prometheus_text(copy: Path) -> None:
    asked = json.loads((copy / "experiment.json").read_text())
    (copy / "experiment.json").write_text(json.dumps({**asked, "model": 'a "b" \\ c\nd'}))
    with served(copy) as address, urllib.request.urlopen(address + "metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = answer.read().decode()
    assert text.endswith("\n")
    said, kinds, samples = set(), {}, {}
    for line in text.splitlines():
        if head := re.fullmatch(r"# (HELP|TYPE) (\w+) (.+)", line):
            said.add((head[1], head[2]))
            kinds[head[2]] = head[3]
            continue
        sample = re.fullmatch(r'(\w+)(\{\w+="(?:[^"\\\n]|\\["\\n])*"(?:,\w+="(?:[^"\\\n]|\\["\\n])*")*\})? (\S+)', line)
        assert sample, line
        assert {("HELP", sample[1]), ("TYPE", sample[1])} <= said
        assert (kinds[sample[1]] == "counter") == sample[1].endswith("_total")
        assert sample[1] + (sample[2] or "") not in samples
        samples[sample[1] + (sample[2] or "")] = float(sample[3])
    result = json.loads((copy / "result.json").read_text())
    assert samples["fedprune_round"] == samples["fedprune_rounds"] == 2
    assert samples["fedprune_finished"] == 1
    assert samples['fedprune_test_accuracy{part=""}'] == result["accuracy_float"]
    assert samples['fedprune_device_faults_total{device="2",tier=""}'] == 0
    assert sum(v for key, v in samples.items() if key.startswith("fedprune_bytes_up_total")) == result["bytes_up"]
    assert any(key.startswith("fedprune_run_info{") and r"a \"b\" \\ c\nd" in key for key in samples)


def test_only_this_machine_is_answered_and_by_its_own_names(finished: Path) -> None:
    with server(finished, 0) as made:
        assert made.server_address[0] == "127.0.0.1"
    with served(finished) as address:
        assert "run.json" in fetch(address, host="localhost")
        for path, host, status in (("run.json", "evil.example", 403), ("../result.json", None, 404), ("x", None, 404)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                fetch(address + path, host)
            assert refused.value.code == status
            refused.value.close()


def test_what_cannot_be_watched_is_one_line(fedprune: Callable[..., Any], finished: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "experiment.json").write_text("{}")
    for what, why in (
        (tmp_path, "not a run's folder"), (tmp_path / "notes.txt", "not a run's folder"),
        (tmp_path / "other" / "experiment.json", "data: missing"),
    ):  # fmt: skip
        ended = fedprune("watch", str(what.parent if what.suffix == ".json" else what))
        assert (ended.code, ended.err.count("\n")) == (2, 1)
        assert f"{what}: {why}" in ended.err
    with server(finished, 0) as made:
        ended = fedprune("watch", str(finished), "--port", str(made.server_address[1]))
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "choose another" in ended.err
    ended = fedprune("watch", str(finished), "--port", "70000")
    assert (ended.code, ended.err.count("\n")) == (2, 1)


def test_the_command_says_where_and_ends_quietly(running: Callable[..., Any], finished: Path) -> None:
    started = running("watch", str(finished), "--port", "0")
    address = re.search(r"http://127\.0\.0\.1:\d+/", started.stdout.readline())
    assert address
    assert json.loads(fetch(address[0] + "run.json"))["state"] == "finished"
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (0, "")


@in_a_browser
def test_the_page_in_a_browser(finished: Path, tmp_path: Path) -> None:
    with served(finished) as address:
        dom, text = browse(address, tmp_path)
    result = json.loads((finished / "result.json").read_text())
    assert "round 2 of 2, check done" in text
    assert f"{100 * result['accuracy_float']:.2f} %" in text
    assert "Finished: the model is exported" in text
    assert len(re.findall(r"<circle", dom)) >= 10  # three tests and two trainings, in accuracy and in loss
    assert "answered, check of round 2" in text
    assert "does not answer" not in text
    # what the browser asks of its own makers has no initiator
    page = f'"initiator":"{address.removesuffix("/")}"'
    asked = [line for line in (tmp_path / "net.json").read_text().splitlines() if page in line]
    assert {url for line in asked for url in re.findall(r'"url":"([^"]+)', line)} == {address + "run.json"}


@in_a_browser
def test_the_page_follows_a_run_and_keeps_it_when_the_server_fails(finished: Path, tmp_path: Path) -> None:
    run, asked = tmp_path / "run", []
    run.mkdir()
    watched, made = Watched(run), server(run, 0)

    class Growing(made.RequestHandlerClass):  # type: ignore[misc, name-defined]
        """The run begins before the second answer; after it none is given."""

        def content(self) -> tuple[str, str] | None:
            if self.path != "/run.json":
                return super().content()  # type: ignore[no-any-return]
            asked.append(watched.picture()["state"])
            if len(asked) == 2:
                shutil.copy(finished / "experiment.json", run)
                (run / "metrics.jsonl").write_text("".join(lines(finished)[:6]) + '{"round": 2, "ph')
            return None if len(asked) > 2 else ("application/json", json.dumps(watched.picture()))

    with made:
        made.RequestHandlerClass = Growing
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        _, text = browse(f"http://127.0.0.1:{made.server_address[1]}/", tmp_path)
        made.shutdown()
        thread.join()
    assert asked[:3] == ["waiting", "waiting", "running"]
    assert "round 1 of 2, evaluate done" in text
    assert "fedprune watch does not answer; what is shown is the last that it said." in text


def test_tensorboard_reads_what_is_exported(fedprune: Callable[..., Any], copy: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = json.loads((copy / "result.json").read_text())
    for _ in range(2):  # the second export takes the place of the first
        ended = fedprune("export", str(copy), "--to", "tensorboard")
        assert ended.code == 0, ended.err
    (file,) = (copy / "tensorboard").iterdir()
    assert str(file) in ended.out
    found = events.EventAccumulator(str(copy / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("test/accuracy")] == [0, 1, 2]
    assert found.Scalars("test/accuracy")[-1].value == pytest.approx(result["accuracy_float"])
    assert sum(event.value for event in found.Scalars("round/bytes_up")) == pytest.approx(result["bytes_up"])
    assert [tag for tag in found.Tags()["scalars"] if tag.startswith("density/")]


def test_without_tensorboard_one_line_says_what_to_install(fedprune: Callable[..., Any], copy: Path) -> None:
    if importlib.util.find_spec("tensorboard"):
        pytest.skip("tensorboard is installed")
    ended = fedprune("export", str(copy), "--to", "tensorboard")
    assert (ended.code, ended.err) == (2, "tensorboard is not installed here: pip install 'fedprune[tensorboard]'\n")
    assert not (copy / "tensorboard").exists()
    (copy / "metrics.jsonl").unlink()
    assert "no line of metrics yet" in fedprune("export", str(copy), "--to", "tensorboard").err
