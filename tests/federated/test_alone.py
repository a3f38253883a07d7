"""A device whose process is its own: of a data set it keeps what it holds, and of Flower what it runs."""

import subprocess
import sys

import numpy as np
import tiny_world

from fedprune import experiment
from fedprune.budgets import natively
from fedprune.data import loading
from fedprune.data.parts import PARTS
from fedprune.federated.link import client

_COMMANDS = """
import sys
from fedprune.deployment.device import clientapp, flower
{before}
assert clientapp.command().__name__ == "flwr_clientapp"
import fedprune.deployment.device.app
import psutil
print(psutil.Process().memory_info().rss, *(name in sys.modules for name in ("sqlalchemy", "fastapi.routing", "torch")))
"""
_SUPEREXEC = """
import sys
from fedprune.deployment.device import flower
assert flower.attribute("flwr.supercore.cli.flower_superexec", "flower_superexec").__name__ == "flower_superexec"
print(*(name in sys.modules for name in ("sqlalchemy", "fastapi.routing", "torch")))
"""


def _said(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_of_a_data_set_it_keeps_its_own_examples() -> None:
    text = experiment.to_json(tiny_world.experiment())
    shared, own = client._open(text, 1, None), client._open(text, 1, None, alone=True)
    assert len(own.parts.pool.train) == sum(own.parts.sizes().values()) < len(shared.parts.pool.train)
    assert loading._dataset.cache_info().currsize == loading._federation.cache_info().currsize == 0
    for part in PARTS:
        assert np.array_equal(getattr(own.parts, part).inputs, getattr(shared.parts, part).inputs)


def test_its_process_has_no_database_and_no_web_server_and_what_a_plan_reckons_with_is_what_it_takes() -> None:
    taken, *there = _said(_COMMANDS.format(before=""))
    assert there == ["False"] * 3
    assert 0.8 * natively.RUNTIME_BYTES < int(taken) < 1.05 * natively.RUNTIME_BYTES
    assert _said(_SUPEREXEC) == ["False"] * 3


def test_where_flower_wants_more_of_them_all_is_imported() -> None:
    _, *there = _said(_COMMANDS.format(before="flower._statuses = lambda: type(sys)('fastapi')"))
    assert there == ["True", "True", "False"]
