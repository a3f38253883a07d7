"""A simulation whose main process is killed leaves nothing behind."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from process_tools import MARK, left, marked


def _workers(mark: str) -> int:
    return sum("multiprocessing.spawn" in " ".join(process.cmdline()) for process in marked(mark))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_main_process(
    world: Path, running: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv(MARK, mark := str(tmp_path))
    words = ("--set", "training.epochs=100000", "--out", f"killed {number}", "--fresh")
    started, until = running("simulate", "tiny.toml", "--workers", "2", *words), time.monotonic() + 120
    rows = world / f"killed {number}" / "metrics.jsonl"
    while not rows.exists() or '"round": 0, "phase": "evaluate"' not in rows.read_text():
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    assert _workers(mark) == 2
    started.send_signal(number)
    started.wait(60)
    assert left(mark, 20) == []
