"""What the live page, its data and its Prometheus text say of devices that are late, away or nobody's."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from watching import browse, fetch, in_a_browser, served

from fedprune import experiment as _experiment
from fedprune.cli.watch import Watched
from fedprune.runs.live.devices import devices
from fedprune.runs.report.devices import devices as report_devices

DEVICES = 5
STRANGER = {"123456": "says that it is device 9 of 5, <b>which</b> count from 0"}


def row(round: int, phase: str, asked: list[int] | None, **more: Any) -> dict[str, Any]:
    """A line of metrics; one of an old run where nobody says who was asked."""
    answered = len(asked or range(DEVICES)) - len(more.get("faults", {})) - len(more.get("refused", {}))
    line = {"round": round, "phase": phase, "accuracy": 0.5, "loss": 1.0, "density": 0.3, "seconds": 10.0}
    line |= {"devices": answered, "faults": {}, "bytes_up": 1, "bytes_down": 1, **more}
    return line if asked is None else {**line, "asked": asked}


ROWS = [
    {"round": 0, "phase": "choose", "density": 0.3, "seconds": 0.1},
    row(0, "evaluate", [0, 1, 2, 3], absent={"4": "not connected"}),
    row(1, "train", [0, 1, 2, 3], absent={"4": "not connected"}, late=[2], retried=2, device_seconds=2.5,
        faults={"2": "no reply within 120 s", "3": "weights that are not finite"}),
    row(1, "evaluate", [0, 1, 3], aside={"2": "until round 4"}, absent={"4": "not connected"}, device_seconds=0.5),
    row(2, "train", [0, 3, 4], aside={"2": "until round 4"}, strangers=STRANGER, device_seconds=4.0,
        refused={"3": {"refused": 3 * 2**20, "memory_bytes": 2**20}}),
    row(2, "evaluate", [0, 4], aside={"2": "until round 4"}, absent={"1": "not connected"}, strangers=STRANGER,
        faults={"4": "no reply within 120 s"}, late=[4]),
]  # fmt: skip


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    """The folder of a run that goes on, in which much has happened."""
    asked = _experiment.load(world / "tiny.toml", [f"data.devices={DEVICES}"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.json").write_text(_experiment.to_json(asked))
    write(tmp_path / "run", ROWS)
    return tmp_path / "run"


def write(run: Path, rows: list[dict[str, Any]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_each_device_is_told_by_who_was_asked(run: Path) -> None:
    seen = Watched(run).picture()
    told = [(d["word"], d["phase"], d["round"], d["asked"], d["answered"]) for d in seen["devices"]]
    assert told == [
        ("answered", "evaluate", 2, 5, 5),
        ("answered", "evaluate", 1, 3, 3),
        ("late", "train", 1, 2, 1),
        ("refused", "train", 2, 4, 2),
        ("late", "evaluate", 2, 2, 1),
    ]
    assert [(d["faults"], d["late"], d["refusals"]) for d in seen["devices"]] == [
        (0, 0, 0), (0, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 0),
    ]  # fmt: skip
    away = [(d["away"], d["away_why"]) for d in seen["devices"]]
    assert away == [("", ""), ("absent", "not connected"), ("aside", "until round 4"), ("", ""), ("", "")]
    assert seen["devices"][3]["needs_bytes"] == 3 * 2**20
    assert seen["strangers"] == STRANGER
    rounds = seen["rounds"]
    assert [(r["faults"], r["late"], r["retried"], r["aside"], r["absent"]) for r in rounds] == [
        (0, 0, 0, 0, 1), (2, 1, 2, 1, 1), (1, 1, 0, 1, 1),
    ]  # fmt: skip
    assert [r["device_seconds"] for r in rounds] == [None, 3.0, 4.0]


@pytest.mark.parametrize("damaged", ["", "[]", '{"7": 3}', '{"7": {"device": "x"}}'])
def test_real_devices_say_how_long_their_answers_take_and_what_memory_they_have(run: Path, damaged: str) -> None:
    watched = Watched(run)
    assert {d["lag_s"] for d in watched.picture()["devices"]} == {None}
    nodes = {"99": {"device": 1, "lag_s": 4.2, "memory_bytes": 2**30, "rounds": 2}, "98": {"lag_s": 1.0}}
    (run / "devices.json").write_text(json.dumps(nodes))
    told = watched.picture()["devices"]
    assert [(d["device"], d["lag_s"]) for d in told if d["lag_s"] is not None] == [(1, 4.2)]
    assert told[1]["memory_bytes"] == 2**30
    (run / "devices.json").write_text(damaged)
    assert len(watched.picture()["devices"]) == DEVICES


def test_who_was_away_is_back_once_a_line_no_longer_says_so(run: Path) -> None:
    write(run, [*ROWS, row(3, "train", [0, 1, 4])])
    seen = Watched(run).picture()
    assert {d["away"] for d in seen["devices"]} == {""}
    assert seen["strangers"] == {}
    write(run, [*ROWS, {"round": 3, "phase": "choose", "density": 0.3, "seconds": 0.1}])
    seen = Watched(run).picture()
    assert seen["devices"][2]["away"] == "aside"  # a line that asked nobody says nothing of who is away
    assert seen["strangers"] == STRANGER


def test_an_old_run_tells_only_what_its_lines_do(run: Path) -> None:
    write(run, [row(0, "evaluate", None), row(1, "train", None, faults={"3": "lost"})])
    first, *_, fourth, _ = Watched(run).picture()["devices"]
    assert (first["word"], first["asked"], first["answered"]) == ("answered", 2, 2)
    assert (fourth["word"], fourth["faults"], fourth["late"], fourth["answered"]) == ("failed", 1, 0, 1)
    write(run, [row(0, "evaluate", None), {**row(1, "train", None, faults={"3": "lost"}), "devices": 1}])
    first, *_, fourth, _ = Watched(run).picture()["devices"]
    assert (first["phase"], first["asked"], first["answered"]) == ("evaluate", None, None)
    assert (fourth["phase"], fourth["word"], fourth["faults"]) == ("train", "failed", 1)


def test_damaged_accounts_are_left_out(run: Path) -> None:
    odd: dict[str, Any] = {"asked": [0, True, -1, 9, "2", None], "late": 3, "retried": "often", "device_seconds": "x"}
    odd |= {"aside": [2], "absent": {"x": 1, "77": "far"}, "strangers": 5, "faults": {"88": "who"}, "worst": {}}
    write(run, [{"round": 1, "phase": "train", **odd}])
    seen = Watched(run).picture()
    assert [d["word"] for d in seen["devices"]] == ["answered", "", "", "", ""]
    assert ({d["away"] for d in seen["devices"]}, seen["strangers"]) == ({""}, {})
    assert (seen["rounds"][0]["retried"], seen["rounds"][0]["device_seconds"]) == (0, None)


def test_prometheus_counts_who_is_late_and_who_is_away(run: Path) -> None:
    with served(run) as address:
        text = fetch(address + "metrics")
    samples = {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}

    def of(metric: str) -> list[float]:
        return [samples[f'fedprune_device_{metric}{{device="{device}",tier=""}}'] for device in range(DEVICES)]

    assert of("asked_total") == [5, 3, 2, 4, 2]
    assert of("answered_total") == [5, 3, 1, 2, 1]
    assert of("faults_total") == [0, 0, 1, 1, 1]
    assert of("late_total") == [0, 0, 1, 0, 1]
    assert of("refusals_total") == [0, 0, 0, 1, 0]
    assert of("aside") == [0, 0, 1, 0, 0]
    assert of("absent") == [0, 1, 0, 0, 0]
    assert samples["fedprune_strangers"] == 1
    assert samples['fedprune_retries_total{phase="train"}'] == 2
    assert samples['fedprune_phase_seconds_total{phase="train"}'] == 20
    assert samples['fedprune_phase_device_seconds_total{phase="train"}'] == 6.5
    assert 'fedprune_phase_device_seconds_total{phase="choose"}' not in samples


@in_a_browser
def test_the_page_shows_what_each_device_is_now_and_why(run: Path, tmp_path: Path) -> None:
    with served(run) as address:
        dom, text = browse(address, tmp_path)
    table = dom.partition('id="devices"')[2].partition("</table>")[0]
    lines = dict(re.findall(r"<tr><td>(\d)</td>(.*?)</tr>", table, re.DOTALL))
    for device, word in enumerate(("answered", "absent", "aside", "refused", "late")):
        assert lines[str(device)].startswith(f'<td class="text word {word}">{word}</td>')
    assert "until round 4; last fault: no reply within 120 s" in lines["2"]
    assert "late, train of round 1" in lines["2"]
    assert ">not connected<" in lines["1"]
    assert ">2 of 4<" in lines["3"]
    assert "1 answered , 1 late , 1 refused , 1 aside , 1 absent" in re.sub(r"\s+", " ", text)
    assert "node 123456: says that it is device 9 of 5, &lt;b&gt;which&lt;/b&gt; count from 0" in dom
    assert "of them the slowest device computes" in text
    assert not re.search(r'id="unknown"(?! hidden)', dom)
    assert len({re.search(rf"--{name}: (#\w+)", dom)[1] for name in ("good", "late", "refused", "aside", "bad")}) == 5  # type: ignore[index]


def test_devices_with_names_are_told_of_as_those_with_numbers() -> None:
    rows: list[dict[str, Any]] = [
        {"round": 1, "phase": "train", "asked": [0, 1, 2], "devices": 1, "faults": {"1": "ValueError: no"}, "late": [1],
         "refused": {"2": {"refused": 5 * 2**20, "memory_bytes": 2**20}}, "absent": {"3": "not connected"}},
        {"round": 1, "phase": "evaluate", "asked": [0, 1], "devices": 2, "worst": {"device": 1, "accuracy": 0.25},
         "aside": {"2": "until round 4"}, "replanned": {"0": "micro-batches of 8"}},
    ]  # fmt: skip
    names = ["ann", "bob", "7", "the garden"]  # in the order of their letters: 7, ann, bob, the garden
    places = {0: "ann", 1: "bob", 2: "7", 3: "the garden"}
    told = [{key: _by_name(value, places) for key, value in row.items()} for row in rows]
    mine = {line["device"]: {**line, "device": ""} for line in devices(None, told, None)}
    plain = {places[line["device"]]: {**line, "device": ""} for line in devices(None, rows, None)}
    assert sorted(mine) == sorted(names)
    assert mine == plain
    page = report_devices(told, 4)
    assert all(f">{name}<" in page for name in ("ann", "bob", "7", "the garden"))


def _by_name(value: Any, places: dict[int, str]) -> Any:
    if isinstance(value, list):
        return [places[each] for each in value]
    if isinstance(value, dict) and "device" in value:
        return {**value, "device": places[value["device"]]}
    return {places[int(key)]: said for key, said in value.items()} if isinstance(value, dict) else value
