"""What devices are asked when a run ends: every kind of model is taken by them, over a link."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import tiny_world

from fedprune.federated.link import engines
from fedprune.runs.run import simulate

METHODS: dict[str, dict[str, Any]] = {
    "weights": tiny_world.FEDTINY,
    "channels chosen while training": {"name": "mask_sparsity", "stop": 2},
    "a width": {"name": "heterofl", "width": 0.5},
}


@pytest.mark.parametrize("method", METHODS)
def test_devices_test_the_files_of_a_finished_model(method: str, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    asked = tiny_world.experiment(method=METHODS[method], training={"batch": 8, "grow_batch": 16})
    result = simulate(asked, tmp_path, engine=functools.partial(engines.local, workers=1), progress=rows.append)
    (check,) = [row for row in rows if row.get("phase") == "check"]
    assert check["faults"] == {}
    assert result["checks"]["litert_int8"]["examples"] > 0
    assert result["accuracy_int8"] is not None
