"""What a result warns of, of the model and of its tiers."""

from collections.abc import Mapping
from typing import Any


def warned(result: Mapping[str, Any]) -> list[str]:
    """Its lines, those of a tier with the tier's name before them. Results of older runs have none.

    >>> warned({"warnings": ["a"], "tiers": {"small": {"warnings": ["b"]}, "large": {}}})
    ['a', 'small: b']
    """
    tiers: Mapping[str, Mapping[str, Any]] = result.get("tiers") or {}
    of_tiers = (f"{name}: {said}" for name, tier in tiers.items() for said in tier.get("warnings", ()))
    return [*result.get("warnings", ()), *of_tiers]
