"""What [data] may say of devices' own recordings: what no device could make room for, or contradicts, is one line."""

import math
from typing import Any

import pytest

from fedprune.experiment import ExperimentError, from_json, parse, to_json

PICTURES = {"name": "pictures", "pictures": {"size": [32, 32]}}


def experiment(data: dict[str, Any]) -> Any:
    table = {"name": "x", "model": "digits_cnn", "rounds": 1, "method": {"name": "fedavg"}}
    return parse({**table, "data": {"partition": "own", **data}}, "x.toml")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"name": "arrays", "shape": [2**24] * 5}, r"data\.shape: an example of shape .* at most 16,777,216"),
        ({"name": "pictures", "pictures": {"size": [2**15, 2**15]}}, r"data\.pictures: an example of shape"),
        ({"name": "sounds", "sounds": {"seconds": 3600, "rate": 2**20}}, r"data\.sounds\.seconds: 3,774,873,600"),
        ({"name": "tables", "tables": {"signals": ["x", "y"], "window": 2**24}}, r"data\.tables: an example of shape"),
        ({"name": "arrays", "classes": [str(n) for n in range(10_001)]}, r"data\.classes: 10,001; at most 10,000"),
        ({**PICTURES, "shape": [1, 32, 32]}, r"data\.shape: \[1, 32, 32\], but data\.pictures gives \[3, 32, 32\]"),
        ({**PICTURES, "mean": [0.5], "std": [0.5]}, r"data\.mean: 1 values, but an example of shape .* 3 channels"),
        ({"name": "arrays", "mean": [math.nan], "std": [1.0]}, r"data\.mean\[0\]: expected a number"),
        ({"name": "arrays", "mean": [0.0], "std": [1e-40]}, r"data\.std\[0\]: expected a number"),
    ],
)
def test_what_no_device_can_do_is_one_line(data: dict[str, Any], why: str) -> None:
    with pytest.raises(ExperimentError, match=f"^x.toml: {why}") as told:
        experiment(data)
    assert "\n" not in str(told.value)


def test_constants_are_one_a_coefficient_of_sounds() -> None:
    constants = {"mean": [0.0] * 10, "std": [1.0] * 10}
    found = experiment({"name": "sounds", "sounds": {"features": "mfcc49x10"}, **constants})
    assert from_json(to_json(found)) == found
