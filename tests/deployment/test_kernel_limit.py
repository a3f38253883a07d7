"""The limit under which a benchmark's small device works: the kernel keeps it, by whichever way there is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.benchmarks._kernel_limit import LIMIT, PEAKS, high_water_bytes, limited, together_bytes

_ALLOWED = 2**27
_CODE = """
import sys
sys.orig_argv = [sys.argv[1]]
from simulations.benchmarks._kernel_limit import enter
enter()
held = bytearray(int(sys.argv[2]))
print("held")
"""
_APP, _OTHER = "fedprune.deployment.device.clientapp", "fedprune.deployment.device.supernode"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")


def _holds(told: str, module: str, count: int) -> bool:
    words = [sys.executable, "-c", _CODE, module, str(count)]
    done = subprocess.run(words, env={**os.environ, LIMIT: told}, capture_output=True, text=True)
    assert done.returncode in (0, 1, -9), done.stderr
    return done.stdout == "held\n"


def test_what_answers_messages_gets_no_more_and_others_do() -> None:
    with limited(_ALLOWED) as limit:
        for told in {limit.told, str(_ALLOWED)}:
            assert _holds(told, _APP, 2**23)
            assert not _holds(told, _APP, 2**28)
            assert _holds(told, _OTHER, 2**28)
        assert limit.peak_bytes() <= _ALLOWED
    assert not Path(limit.told).exists()


def test_what_each_took_at_most_is_noted(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _CODE, _APP, str(2**26)]
    subprocess.run(words, env={**os.environ, PEAKS: str(tmp_path)}, check=True, stdout=subprocess.DEVNULL)
    (noted,) = tmp_path.iterdir()
    assert 2**26 < int(noted.read_text()) < 2**28


def test_memory_of_several_counts_once_where_they_share_it() -> None:
    mine = os.getpid()
    alone = together_bytes([mine])
    assert 2**20 < alone <= high_water_bytes(mine)
    assert together_bytes([mine, mine]) < 2 * alone
