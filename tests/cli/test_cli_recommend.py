"""``fedprune recommend``: which methods a fleet can train, by planning each, and why not the others."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from fedprune.cli.plan import show_advice
from fedprune.experiment import load
from fedprune.runs.recommending import recommended

Run = Callable[..., tuple[int, str, str]]
FILE = Path(__file__).resolve().parents[2] / "simulations" / "fleet_digits.toml"
NAMES = ("fedtiny", "magnitude", "heterofl", "snip", "kd_dp", "fedavg", "spafl")


@pytest.fixture(scope="module")
def found() -> dict[str, tuple[str, dict[str, int]]]:
    asked = load(FILE, ['fleet.zero.train_memory_bytes="128 MiB"', "fleet.zero.density=0.25"])
    heard: list[str] = []
    advice = list(recommended(asked, "mine.toml", say=heard.append, names=NAMES))
    assert tuple(heard) == NAMES
    console = Console(width=120, record=True)
    show_advice(console, asked, advice)
    said = console.export_text()
    assert "3 of 7 methods fit" in said
    assert all(f"{name} " in said or f"{name}:" in said for name in NAMES)
    widths = {each.method: each.sizes.get("zero", 0.0) for each in advice}
    # a width that keeps as many weights as the density does
    assert widths["fedtiny"] == 0.25
    assert widths["heterofl"] == 0.5
    return {each.method: (each.why_not, dict(each.peaks)) for each in advice}


def test_what_fits_stays_within_every_tiers_memory(found: dict[str, tuple[str, dict[str, int]]]) -> None:
    limits = {name: tier.train_memory_bytes for name, tier in load(FILE).fleet.items() if tier.trains}
    limits["zero"] = 128 * 2**20
    fits = {name: peaks for name, (why_not, peaks) in found.items() if not why_not}
    assert fits.keys() == {"fedtiny", "magnitude", "heterofl"}
    for name, peaks in fits.items():
        assert peaks.keys() == limits.keys()
        assert all(0 < peak <= limits[tier] for tier, peak in peaks.items()), name


def test_what_does_not_fit_says_which_budget_or_what_it_lacks(found: dict[str, tuple[str, dict[str, int]]]) -> None:
    for name in ("snip", "kd_dp"):  # torch alone takes more than the tier has
        assert found[name][0].startswith("fleet.zero.train_memory_bytes: ")
    for name in ("fedavg", "spafl"):
        assert found[name][0].endswith("has no density and no width by which tiers could differ")
    assert all("mine.toml" not in why and "\n" not in why for why, _ in found.values())


def test_without_a_fleet_there_is_nothing_to_fit(fedprune: Run) -> None:
    code, _, err = fedprune("recommend", str(FILE.parent / "digits.toml"))
    assert code == 2
    assert "fleet: missing; describe tiers" in err
