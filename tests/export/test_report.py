"""The report's section on devices: who was asked, who answered, who was late or away; nothing where all went well."""

import re
from collections.abc import Mapping
from html import unescape
from typing import Any

from fedprune.runs.report import charts, page
from fedprune.runs.report.attendance import by_round
from fedprune.runs.report.devices import devices


def row(round: int, phase: str, asked: list[int], **more: Any) -> dict[str, Any]:
    left = len(asked) - len(more.get("faults", {})) - len(more.get("refused", {}))
    line = {"round": round, "phase": phase, "accuracy": 0.5, "loss": 1.0, "density": 0.3, "bytes_up": 1}
    return {**line, "bytes_down": 1, "seconds": 1.0, "asked": asked, "devices": left, "faults": {}, **more}


MEMORY = {"refused": 3 * 2**20, "memory_bytes": 2**20}
ROWS = [
    row(1, "train", [0, 1, 2], faults={"1": "no reply within 9 s", "2": "not <finite>"}, late=[1], retried=2),
    row(1, "evaluate", [0, 2], aside={"1": "until round 3"}, absent={"3": "not connected"}),
    row(2, "train", [0, 2], aside={"1": "until round 3"}, absent={"3": "not connected"}, refused={"2": MEMORY}),
    row(2, "evaluate", [0, 2], aside={"1": "until round 3"}, absent={"3": "not connected"}),
    row(3, "train", [0, 2, 3], aside={"1": "until round 3"}, strangers={"77": "says <b>that</b>"}),
]


def cells(section: str) -> list[list[str]]:
    lines = re.findall(r"<tr>(<td>.*?)</tr>", section)
    return [[unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", line)] for line in lines]


def test_each_device_has_a_line_with_what_befell_it() -> None:
    section = devices(ROWS, 4)
    #     asked, answered, failed, late, refused, rounds aside, rounds absent, last reason
    assert cells(section) == [
        ["0", "5", "5", "0", "0", "0", "0", "0", ""],
        ["1", "1", "0", "1", "1", "0", "2", "0", "no reply within 9 s"],
        ["2", "5", "3", "1", "0", "1", "0", "0", "needs 3.0 MiB, has 1.0 MiB"],
        ["3", "1", "1", "0", "0", "0", "0", "2", ""],
    ]
    assert "3 of 4 devices failed, refused or were away" in section
    assert "asked again 2 times in all" in section
    assert "<li>node 77: says &lt;b&gt;that&lt;/b&gt;</li>" in section
    assert "<finite>" not in section + page(RESULT, ROWS, LAYERS, "")


def test_the_worst_of_each_round_is_drawn_and_rounds_that_are_alike_are_one_bar() -> None:
    assert by_round(ROWS, 4) == {
        0: {1: "answered", 2: "answered", 3: "answered"},
        1: {1: "late", 2: "aside", 3: "aside"},
        2: {1: "failed", 2: "refused", 3: "answered"},
        3: {1: "absent", 2: "absent", 3: "answered"},
    }
    svg = charts.strip(by_round(ROWS, 4))
    bars_of, legend = svg.split('id="legend_1"')
    for colour, word, bars in (
        ("#86efac", "answered", 3), ("#f59e0b", "late", 1), ("#b91c1c", "failed", 1), ("#7e22ce", "refused", 1),
        ("#0e7490", "aside", 1), ("#cbd5e1", "absent", 1),
    ):  # fmt: skip
        assert len(re.findall(rf'<use [^>]*style="fill: {colour}"', bars_of)) == bars, word
        assert colour in legend
        assert f">{word}</text>" in legend


def test_nothing_is_said_where_all_devices_answered() -> None:
    rows = [row(1, "train", [0, 2]), row(1, "evaluate", [0, 1, 2])]
    assert devices(rows, 3) == ""
    assert "<h2>Devices</h2>" not in page(RESULT, rows, LAYERS, "")
    old = [{key: value for key, value in line.items() if key != "asked"} for line in rows]
    assert devices(old, 3) == ""
    assert "asked again 1 time in all" in devices([row(1, "train", [0, 1, 2], retried=1)], 3)


def test_an_old_run_does_not_say_who_was_asked() -> None:
    old = {key: value for key, value in row(1, "train", [0, 1], faults={"1": "lost"}).items() if key != "asked"}
    assert cells(devices([old], 3))[:2] == [
        ["0", "–", "–", "0", "0", "0", "0", "0", ""],
        ["1", "–", "–", "1", "0", "0", "0", "0", "lost"],
    ]
    assert cells(devices([old], 2))[0][:3] == ["0", "1", "1"]  # as many answered as there are


def test_of_many_devices_only_those_in_trouble_are_drawn_and_at_most_50() -> None:
    everyone = list(range(200))
    some = [row(1, "train", everyone, faults={"7": "lost", "190": "lost"})]
    assert [line[0] for line in cells(devices(some, 200))] == ["7", "190"]
    assert "2 of 200 devices failed, refused or were away at some time; they are shown." in devices(some, 200)
    all_of_them = [
        row(1, "train", everyone, faults={str(device): "lost" for device in everyone}),
        row(2, "train", everyone, faults={str(device): "lost" for device in range(100, 150)}),
    ]
    assert [line[0] for line in cells(devices(all_of_them, 200))] == [str(device) for device in range(100, 150)]
    assert "the 50 worst of them are shown" in devices(all_of_them, 200)


def test_the_whole_page_has_the_section_once_and_says_late_in_its_rounds() -> None:
    whole = page(RESULT, ROWS, LAYERS, "")
    assert whole.count("<h2>Devices</h2>") == 1
    assert devices(ROWS, 4) in whole
    (train, *_) = (line for line in cells(whole) if line[:2] == ["1", "train"])
    assert train[-1] == (
        "those that failed were asked again; device 1: late, no reply within 9 s; device 2: not <finite>"
    )
    assert page(RESULT, ROWS, LAYERS, "") == whole


def test_the_page_has_the_flash_of_c99_sources_where_there_are_some() -> None:
    forms = {**RESULT["bytes"], "C99, weights and tables": 6800, "C99, all its flash, predicted": 9700}
    whole = page({**RESULT, "c99_flash_bytes_predicted": 9700, "bytes": forms}, ROWS, LAYERS, "")
    assert "<b>9.7 KB</b>flash of the C99 sources, about" in whole
    assert all(text in whole for text in ("C99, weights and tables", "C99, all its flash, predicted"))
    assert "flash of the C99 sources" not in page(RESULT, ROWS, LAYERS, "")


def test_the_page_says_what_int8_loses_and_where() -> None:
    noise = {"signal_to_noise_db": {"<dw>": 14.8, "fc": 31.0}, "calibration": "mse, biases corrected"}
    whole = page({**RESULT, **noise, "warnings": ["int8 loses <4> points"]}, ROWS, LAYERS, "")
    assert '<p class="warning">int8 loses &lt;4&gt; points</p>' in whole
    assert whole.index("&lt;dw&gt;</td><td>14.8") < whole.index("fc</td><td>31.0")
    assert "calibration: mse, biases corrected." in whole
    assert 'class="warning"' not in page(RESULT, ROWS, LAYERS, "")


def test_the_page_of_a_run_that_no_device_tested_says_so() -> None:
    """As one in private, whose devices say nothing of their test parts."""
    nothing = {"examples": 0, "accuracy": None, "agreement": None}
    tier: dict[str, Any] = {
        "devices": 1, "density": 0.5, "accuracy_float": None, "accuracy_int8": None, "worst_device": None,
        "flash_bytes": 1, "flash_bytes_allowed": 0, "arena_bytes": 1, "sram_bytes_allowed": 0,
        "train_memory_bytes_predicted": 1, "train_memory_bytes_allowed": 0,
    }  # fmt: skip
    untested = {"accuracy_float": None, "accuracy_int8": None, "checks": {"litert_float": nothing}}
    rows = [row(3, "check", [0, 1, 2, 3], accuracy=None, loss=None)]
    whole = page({**RESULT, **untested, "tiers": {"board": tier}}, rows, LAYERS, "")
    assert "<b>not tested</b>accuracy, torch" in whole
    assert "<b>not tested</b>accuracy, int8" in whole
    tables = cells(whole)
    assert ["board", "1", "0.500", "not tested", "not tested", "not tested"] in [line[:6] for line in tables]
    assert ["torch, float32", "0", "not tested", ""] in tables
    assert ["3", "check", "", "", "0.3000", "0.0", "0.0", "1.00", "4", ""] in tables


RESULT: Mapping[str, Any] = {
    "name": "a run", "method": "fedtiny", "model": "net", "data": "own", "devices": 4, "rounds": 3, "seed": 0,
    "versions": {"python": "3.11"}, "accuracy_float": 0.5, "accuracy_int8": 0.5, "density": 0.3, "density_all": 0.4,
    "parameters_kept": 10, "arena_bytes": None, "bytes": {"int8 .tflite, compacted": 1000}, "bytes_up": 5,
    "bytes_down": 5, "checks": {"litert_float": {"examples": 9, "accuracy": 0.5, "agreement": 1.0}},
}  # fmt: skip
LAYERS: Mapping[str, Mapping[str, float]] = {"before": {}, "after": {}, "moved": {}}


def test_the_page_says_which_test_diverged_first_and_each_in_its_round() -> None:
    said = {"phase": "evaluate", "part": "small", "loss": 9e3, "diverged": "the loss is 9e+03, and was <1>"}
    whole = page(RESULT, [*ROWS, {**ROWS[0], **said, "round": 7}, {**ROWS[0], **said, "round": 8}], LAYERS, "")
    assert whole.count('<p class="warning">') == 1
    assert "round 7, evaluate, small: diverged: the loss is 9e+03, and was &lt;1&gt;" in whole
    found = [line[-1] for line in cells(whole) if line[:2] == ["8", "evaluate, small"]]
    assert [line.startswith("diverged: the loss is 9e+03") for line in found] == [True]
