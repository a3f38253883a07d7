"""A fleet on the command line: what each tier gets and why, what cannot be, and a model for each tier at the end."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dealt
import numpy as np
import pytest

from fedprune.budgets import Profile
from fedprune.cli.plan import _BINDS
from fedprune.experiment import load
from fedprune.export import litert
from fedprune.export.chip.card import C99_FORMS
from fedprune.federated.rounds.model import read
from fedprune.runs.setting import prepare

Fedprune = Callable[..., tuple[int, str, str]]

FLEET = """
[fleet.phone]
devices = 2

[fleet.pi]
devices = 1
density = 0.1
train_memory_bytes = "320 MB"

[fleet.board]
devices = 5
trains = false
flash_bytes = 2650
sram_bytes = "4 KiB"
"""


@pytest.fixture(scope="session")
def fleet(world: Path) -> Path:
    """An experiment with three tiers, of which one only runs the model."""
    path = world / "fleet.toml"
    text = (world / "tiny.toml").read_text().replace("devices = 3\n", "").replace("epochs = 20 ", "epochs = 1 ")
    path.write_text(text + FLEET)
    return path


def row(out: str, label: str) -> list[str]:
    """The cells of one line of the table."""
    (line,) = re.findall(rf"^{re.escape(label)} {{2,}}(.*)$", out, re.MULTILINE)
    return re.split(r" {2,}", line.strip())


def planned(ended: tuple[int, str, str]) -> str:
    code, out, err = ended
    assert (code, err) == (0, "")
    return out


def refused(ended: tuple[int, str, str], file: Path, reason: str) -> str:
    """Exit code 2, and exactly one line on standard error."""
    code, out, err = ended
    assert code == 2, (out, err)
    assert err.count("\n") == 1, err
    assert err.startswith(f"{file}: "), err
    assert re.search(reason, err), err
    assert "Traceback" not in out + err
    return err


# plan


def test_each_tier_has_its_density_and_what_binds_it(fedprune: Fedprune, fleet: Path, tmp_path: Path) -> None:
    out = planned(fedprune("plan", str(fleet)))
    assert out.split("\n")[0].split() == ["phone", "pi", "board"]
    assert row(out, "devices") == ["2", "1", "5"]
    phone, pi, board = (float(cell) for cell in row(out, "density"))
    assert (phone, pi) == (0.3, 0.1)
    assert 0 < board < 0.3
    assert row(out, "what binds") == [_BINDS["density"], _BINDS["density"], _BINDS["flash_bytes"]]
    assert list(tmp_path.iterdir()) == []  # nothing is written


@pytest.mark.parametrize(
    ("tier", "budget"), [("pi", "train_memory_bytes"), ("board", "flash_bytes"), ("board", "sram_bytes")]
)
def test_an_impossible_budget_is_refused_with_the_least_that_would_do(
    fedprune: Fedprune, fleet: Path, tier: str, budget: str
) -> None:
    """Random+ERK, which any density suits."""
    key = f"fleet.{tier}.{budget}"

    def plan(size: int) -> tuple[int, str, str]:
        changes = ["--set", "method={name='random_erk', density=0.3}"]
        changes += ["--set", "fleet.board.flash_bytes=0"] if budget == "sram_bytes" else []  # it may bind first
        changes += ["--set", f"{key}={size}"]
        return fedprune("plan", str(fleet), *changes)

    said = refused(plan(100), fleet, rf": {re.escape(key)}: nothing fits in 100 bytes; the least that would do is ")
    least = int(said.split("the least that would do is ")[1].split()[0].replace(",", ""))
    assert str(least) in refused(plan(least - 1), fleet, re.escape(key)).replace(",", "")
    out = planned(plan(least))
    assert float(row(out, "density")[["phone", "pi", "board"].index(tier)]) > 0


def test_more_room_never_gives_less(fedprune: Fedprune, fleet: Path) -> None:
    found = []
    for size in (2620, 2650, 2680, 2710, 10**6):
        out = planned(fedprune("plan", str(fleet), "--set", f"fleet.board.flash_bytes={size}"))
        found.append(float(row(out, "density")[2]))
    assert found == sorted(found)
    assert found[0] < found[-1] == 0.3


def test_a_method_of_widths_is_planned_by_width(fedprune: Fedprune, fleet: Path) -> None:
    changes = ["--set", "method={name='heterofl'}", "--set", "fleet.pi.density=0.5"]
    out = planned(fedprune("plan", str(fleet), *changes))
    assert [float(cell) for cell in row(out, "width")][:2] == [1, 0.5]
    assert "density" not in out


def test_a_file_without_a_fleet_has_no_plan(fedprune: Fedprune, world: Path, tmp_path: Path) -> None:
    file = world / "tiny.toml"
    refused(fedprune("plan", str(file)), file, r": fleet: missing; .*\[fleet\.")
    assert list(tmp_path.iterdir()) == []


CASES = {
    "unknown key": ("fleet.pi.devics=3", r"fleet\.pi\.devics: unknown key; did you mean devices\?"),
    "no size": ('fleet.board.flash_bytes="128 MX"', r"fleet\.board\.flash_bytes: '128 MX' is no size; .*128 MiB"),
    "a size in words": ("fleet.board.flash_bytes=much", r"fleet\.board\.flash_bytes: 'much' is no size"),
    "negative": ("fleet.board.sram_bytes=-1", r"fleet\.board\.sram_bytes: expected a whole number >= 0"),
    "negative, as a text": ('fleet.board.sram_bytes="-1 kB"', r"fleet\.board\.sram_bytes: '-1 kB' is no size"),
    "fraction of a byte": ("fleet.board.sram_bytes=1.5", r"fleet\.board\.sram_bytes: expected a whole number"),
    "density 0": ("fleet.pi.density=0.0", r"fleet\.pi\.density: expected a number > 0"),
    "density above 1": ("fleet.pi.density=1.5", r"fleet\.pi\.density: expected a number <= 1"),
    "density of a size": ('fleet.pi.density="1 kB"', r"fleet\.pi\.density: expected a number, got a text"),
    "devices missing": ("fleet.other.density=0.5", r"fleet\.other\.devices: missing"),
    "no device": ("fleet.pi.devices=0", r"fleet\.pi\.devices: expected a whole number >= 1"),
    "trains maybe": ("fleet.pi.trains=maybe", r"fleet\.pi\.trains: expected true or false"),
    "none trains": ("fleet={a={devices=1, trains=false}}", r"fleet: no tier trains|data\.devices: missing"),
    "another number of devices": ("data.devices=7", r"data\.devices: 7, but the tiers that train have 3; leave it out"),
    "no density": ("method={name='fedavg'}", r"fleet: fedavg has no density and no width"),
    "a folder elsewhere": ("fleet={'../x'={devices=1}}", r"fleet: '\.\./x' names a folder"),
    "a name with a dot": ("fleet={'a.b'={devices=1}}", r"fleet: 'a\.b' names a folder"),
    "no name": ("fleet={''={devices=1}}", r"fleet: '' names a folder"),
    "a tier that is no table": ("fleet.pi=3", r"fleet\.pi: expected a table"),
    "a fleet that is no table": ("fleet=3", r"fleet: expected a table of tiers"),
    "inner steps": ("training.inner_steps=-1", r"training\.inner_steps: expected a whole number >= 0"),
    "join": ("training.join=lots", r"training\.join: 'lots' is not one of average, scores, votes"),
}


@pytest.mark.parametrize("command", ["plan", "simulate"])
@pytest.mark.parametrize("case", CASES)
def test_a_fleet_that_cannot_be(fedprune: Fedprune, fleet: Path, tmp_path: Path, command: str, case: str) -> None:
    change, reason = CASES[case]
    refused(fedprune(command, str(fleet), "--set", change), fleet, reason)
    assert list(tmp_path.iterdir()) == []


# profile


def test_a_profile_is_json_for_programs_and_words_for_people(fedprune: Fedprune, tmp_path: Path) -> None:
    out = planned(fedprune("profile", "--json"))
    assert out.count("\n") == 1
    found = json.loads(out)
    assert tuple(found) == Profile._fields
    assert all(value > 0 for value in found.values())
    said = planned(fedprune("profile"))
    assert "MiB" in said
    assert "cores" in said
    assert list(tmp_path.iterdir()) == []


# simulate


@pytest.fixture(scope="module")
def fleet_run(fleet: Path, here: Callable[..., tuple[int, str, str]]) -> Path:
    """The folder of a finished run of the fleet."""
    code, _, err = here("simulate", "fleet.toml", "--workers", "1", "--out", "fleet run")
    assert code == 0, err
    return fleet.parent / "fleet run"


def test_every_tier_has_its_folder(fleet_run: Path) -> None:
    assert sorted(path.name for path in (fleet_run / "tiers").iterdir()) == ["board", "phone", "pi"]
    result = json.loads((fleet_run / "result.json").read_text())
    assert list(result["tiers"]) == ["phone", "pi", "board"]
    for tier in ("phone", "pi", "board"):
        folder, card = fleet_run / "tiers" / tier, result["tiers"][tier]
        for name in ("model.tflite", "model_float.tflite", "card.json", "card.md"):
            assert (folder / name).stat().st_size > 0
        assert json.loads((folder / "card.json").read_text()) == card
        if card["arena_bytes"] is not None:
            assert (folder / "microcontroller" / "model_data.c").exists()
        assert f"{100 * card['accuracy_int8']:.2f} %" in (folder / "card.md").read_text()
    assert not [path.name for path in fleet_run.rglob(".*")]  # no drafts are left


@pytest.mark.parametrize("tier", ["phone", "pi", "board"])
def test_a_card_says_what_its_files_are(fleet: Path, fleet_run: Path, tier: str) -> None:
    folder, state = fleet_run / "tiers" / tier, read(fleet_run / "checkpoint.fedprune")
    card: dict[str, Any] = json.loads((folder / "card.json").read_text())
    plan = prepare(load(fleet), str(fleet)).plan
    assert plan is not None
    own = plan.tiers[tier]
    assert (card["part"], card["size"]) == (own.part, own.size)
    assert card["density"] == state.view(own.part).density() == pytest.approx(own.size, rel=0.05)
    assert card["bytes"]["model.tflite"] == (folder / "model.tflite").stat().st_size
    assert card["bytes"]["model_float.tflite"] == (folder / "model_float.tflite").stat().st_size
    if "no_c" not in card:
        assert [card["bytes"][form] for form in C99_FORMS] == [card[key] for key in C99_FORMS.values()]
        assert f"about {card['c99_flash_bytes_predicted']:,} with code" in (folder / "card.md").read_text()
    micro = tier == "board"  # it states its SRAM, so it is a microcontroller
    assert card["flash_bytes"] == card["bytes"]["microcontroller" if micro else "model.tflite"]
    assert card["flash_bytes"] <= own.flash_bytes
    if micro:
        assert own.flash_bytes <= card["flash_bytes_allowed"] == 2650
        assert card["arena_bytes"] is None or card["arena_bytes"] <= card["sram_bytes_allowed"] == 4096


@pytest.mark.parametrize("tier", ["phone", "pi", "board"])
def test_the_int8_file_of_a_tier_runs_as_its_card_says(fleet: Path, fleet_run: Path, tier: str) -> None:
    folder = fleet_run / "tiers" / tier
    card = json.loads((folder / "card.json").read_text())
    setting = prepare(load(fleet), str(fleet))
    inputs, labels = dealt.test_set(setting)
    right = litert.run((folder / "model.tflite").read_bytes(), inputs).argmax(1) == labels
    assert card["accuracy_int8"] == pytest.approx(np.mean(right))
    start, found = 0, {}
    for index, device in enumerate(dealt.dealt(setting).devices):
        found[str(index)] = pytest.approx(np.mean(right[start : start + len(device.test_indices)]))
        start += len(device.test_indices)
    assert card["accuracy_by_device"] == found
    worst = card["worst_device"]
    assert worst["accuracy"] == min(card["accuracy_by_device"].values())
    assert card["accuracy_by_device"][str(worst["device"])] == worst["accuracy"]
