"""What a result warns of, of the model and of its tiers, and what lines of metrics say of tests that diverged."""

from collections.abc import Mapping, Sequence
from typing import Any


def warned(result: Mapping[str, Any]) -> list[str]:
    """Its lines, those of a tier with the tier's name before them. Results of older runs have none.

    >>> warned({"warnings": ["a"], "tiers": {"small": {"warnings": ["b"]}, "large": {}}})
    ['a', 'small: b']
    """
    tiers: Mapping[str, Mapping[str, Any]] = result.get("tiers") or {}
    of_tiers = (f"{name}: {said}" for name, tier in tiers.items() for said in tier.get("warnings", ()))
    return [*result.get("warnings", ()), *of_tiers]


def diverged(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each test in which the loss had exploded.

    >>> diverged([{"round": 3, "phase": "evaluate", "part": "small", "diverged": "the loss is 1e+04"}])
    ['round 3, evaluate, small: diverged: the loss is 1e+04']
    """
    found = []
    for row in rows:
        if isinstance(why := row.get("diverged"), str) and why:
            part = f", {row['part']}" if row.get("part") else ""
            found.append(f"round {row['round']}, {row['phase']}{part}: diverged: {why}")
    return found
