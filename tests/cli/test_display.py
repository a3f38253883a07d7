"""What an operator reads while a run goes on: who failed, is late, is away, comes back, or is nobody."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedprune.cli.device_names import NUMBERS, Names
from fedprune.cli.ended import summary
from fedprune.cli.progress import Display
from fedprune.experiment import load
from fedprune.federated.rounds.naming import ordered

_DIGITS = Path(__file__).parents[2] / "simulations" / "digits.toml"


def row(round: int, phase: str, **more: Any) -> dict[str, Any]:
    line = {"round": round, "phase": phase, "accuracy": 0.5, "loss": 1.0, "density": 0.5, "bytes_up": 1}
    return {**line, "bytes_down": 1, "seconds": 4.0, "devices": 3, "faults": {}, **more}


@pytest.fixture
def shown(world: Path) -> Any:
    """Shows lines of metrics, and returns what is read of each round: the lines under its own."""

    def show(*rows: dict[str, Any], names: Names = NUMBERS) -> dict[str, list[str]]:
        out = io.StringIO()
        with Display(Console(file=out, width=80), load(world / "tiny.toml"), Path("run"), names) as display:
            for each in rows:
                display(each)
        found: dict[str, list[str]] = {}
        for line in filter(str.strip, out.getvalue().splitlines()[2:]):
            if line.startswith(" " * 7):
                found[next(reversed(found))].append(line.strip())
            else:
                found[line.split()[0]] = []
        return found

    return show


def test_late_is_said_once(shown: Any) -> None:
    faults = {"0": "a damaged reply", "1": "no reply within 120 s", "2": "came late", "3": "no reply within 120 s"}
    assert shown(row(1, "train", faults=faults, late=[1, 2, 3], retried=2), {"phase": "export"})["1"] == [
        "train: those that failed were asked again 2 times",
        "device 0, train: a damaged reply",
        "devices 1, 3, train: late, no reply within 120 s",
        "device 2, train: came late",
    ]


def test_who_is_away_is_said_when_it_changes_and_not_at_every_line(shown: Any) -> None:
    gone, aside = {"absent": {"1": "not connected"}}, {"aside": {"2": "until round 3"}}
    stranger = {"strangers": {"77": "says that it is [red]device 9"}}
    told = shown(
        row(0, "evaluate", **gone),
        row(1, "train", **gone, **stranger),
        row(1, "evaluate", **gone, **aside, **stranger),
        row(2, "train", **gone, **aside, **stranger),
        {"round": 2, "phase": "choose", "density": 0.5, "seconds": 0.1},  # asks nobody
        row(2, "evaluate", **aside),
        row(3, "evaluate", aside={"2": "until round 6"}, **stranger),
        row(4, "evaluate", absent={"2": "not connected"}),
        row(5, "evaluate"),
        {"phase": "export"},
    )
    assert told == {
        "0": ["device 1: absent, not connected"],
        "1": [
            "node 77 is none of the devices: says that it is [red]device 9",
            "device 2: failed repeatedly, set aside until round 3",
        ],
        "2": ["device 1: there again"],
        "3": ["device 2: failed repeatedly, set aside until round 6"],
        "4": ["device 2: absent, not connected"],
        "5": ["device 2: there again"],
    }


def test_a_fleets_devices_are_called_by_name_and_one_that_fails_at_once_is_not_absent(shown: Any) -> None:
    names = Names({0: "kitchen", 1: "attic", 2: "cellar"}, {"77": "cellar"})
    refused = {"1": {"refused": 2**22, "memory_bytes": 2**21}}
    gone = {"absent": {"2": "not connected"}, "strangers": {"77": "ValueError: no column ax", "78": "says nothing"}}
    told = shown(
        row(1, "train", faults={"0": "ValueError: NaN", "1": "ValueError: NaN"}, refused=refused, **gone),
        row(1, "evaluate", absent={"0": "not connected", "1": "not connected"}),
        names=names,
    )
    assert told["1"] == [
        "kitchen, attic, train: ValueError: NaN",
        "attic, train: needs 4.0 MiB, has 2.0 MiB; left out",
        "cellar cannot take part: ValueError: no column ax",
        "node 78 is none of the devices: says nothing",
        "kitchen, attic: absent, not connected",
    ]


def test_devices_have_numbers_or_names_or_are_named_by_what_a_line_calls_them() -> None:
    names = Names({0: "kitchen"})
    devices = ["attic", 2, 0, 11]
    assert names.all_of(ordered(devices)) == "kitchen, device 2, device 11, attic"
    assert (NUMBERS.all_of([3]), NUMBERS.all_of([3, 4]), NUMBERS.of("attic")) == ("device 3", "devices 3, 4", "attic")


def test_a_notice_is_read_at_once_also_through_a_pipe() -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from rich.console import Console
        from fedprune.cli.progress import Display
        from fedprune.experiment import load
        with Display(Console(), load(Path(sys.argv[1])), Path("run")) as display:
            display({"notice": "waiting for 2 of 3 devices: kitchen, attic [1]"})
            sys.stdin.read()
        """
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(_DIGITS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "waiting for 2 of 3 devices: kitchen, attic [1]"
    assert process.poll() is None  # it was said while the run goes on
    process.communicate("")
    assert process.returncode == 0


def test_many_devices_of_which_the_same_is_said_share_a_line(shown: Any) -> None:
    absent = {str(device): "not connected" for device in range(25)}
    told = shown(row(0, "evaluate", absent=absent), row(1, "evaluate", absent={"3": "not connected"}))
    assert told["0"] == ["devices 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 15 more: absent, not connected"]
    assert told["1"] == ["devices 0, 1, 2, 4, 5, 6, 7, 8, 9, 10 and 14 more: there again"]


def test_a_round_that_is_cut_short_is_shown_too(shown: Any) -> None:
    told = shown(row(1, "evaluate"), row(2, "train", faults={"1": "lost"}))
    assert told == {"1": [], "2": ["device 1, train: lost"]}


def test_what_devices_compute_is_told_apart_from_the_link(shown: Any) -> None:
    rows = (row(1, "train", device_seconds=1.5), row(1, "evaluate", device_seconds=0.5), row(2, "evaluate"))
    (said,) = shown(*rows, {"phase": "export"})["2"]
    assert said == "2.0 of 8.0 s are the slowest device's in each phase, the rest is the link's and the server's"
    assert shown(row(1, "evaluate"), {"phase": "export"})["1"] == []


def test_the_devices_check_of_the_files_is_a_line_of_its_own(world: Path) -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=80), load(world / "tiny.toml"), Path("run")) as display:
        display(row(3, "evaluate"))
        display({"phase": "export"})
        failed = {"faults": {"1": "no memory"}, "devices": 2}
        display(row(3, "check", accuracy=None, loss=None, bytes_up=3000, part="large", **failed))
        display(row(3, "check", accuracy=None, loss=None, bytes_up=4000, part="small"))
    *_, round, check, fault = filter(str.strip, out.getvalue().splitlines())
    assert round.split() == ["3", "50.00", "%", "1.0000", "0.5000", "0.0", "0.0", "4.0"]
    assert check.split(maxsplit=5) == ["check", "0.5000", "7.0", "0.0", "8.0", "the exported files, on 3 devices"]
    assert fault.strip() == "device 1, check: no memory"


def test_a_run_that_no_device_tested_says_so(world: Path) -> None:
    """As one in private, whose devices say nothing of their test parts."""
    out = io.StringIO()
    tier = {
        "density": 0.5,
        "accuracy_int8": None,
        "worst_device": None,
        "flash_bytes": 1,
        "arena_bytes": 1,
        "fits": True,
    }
    sizes = dict.fromkeys(("int8 .tflite, compacted", "int8 .tflite, compacted, gzip", "float32, dense"), 1)
    checks = {"litert_int8": {"examples": 0, "accuracy": None, "agreement": None}}
    counts = dict.fromkeys(("density", "density_all", "parameters", "parameters_kept", "bytes_up", "bytes_down"), 1)
    untold = {"accuracy_float": None, "accuracy_int8": None}
    result = {"bytes": sizes, "checks": checks, "arena_bytes": 1, **untold, **counts}
    summary(Console(file=out, width=100), {**result, "tiers": {"board": {**tier, "fits": True}}}, world)
    assert "warning" not in out.getvalue()
    loud = {"warnings": ["int8 loses [4] points"], "tiers": {"board": {**tier, "warnings": ["int8 loses 5 points"]}}}
    summary(Console(file=(said := io.StringIO()), width=100), {**result, **loud}, world)
    assert "\nwarning: int8 loses [4] points\nwarning: board: int8 loses 5 points\n" in said.getvalue()
    lines = {line.split("  ")[0].strip(): line.split() for line in out.getvalue().splitlines()}
    assert lines["accuracy, torch"] == ["accuracy,", "torch", "not", "tested"]
    assert lines["accuracy, model.tflite"] == ["accuracy,", "model.tflite", "not", "tested"]
    assert lines["board"].count("tested") == 2
