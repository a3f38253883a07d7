"""What processes.child starts ends with its parent, a child of its own that is deaf too; what runs by hand stays."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_tools import MARK, left, marked

# a SuperLink as far as this goes: its child has a session of its own, and does not end when it is asked to
WATCHED = """
import signal, subprocess, sys, time
from fedprune.deployment.parent import end_with_parent
end_with_parent()
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
time.sleep(600)
"""
PARENT = """
import os, pathlib, sys, time
from fedprune.deployment.processes import child
with child([sys.executable, "-c", sys.argv[1]], dict(os.environ), pathlib.Path.cwd()) as process:
    print(process.stdout.readline(), end="", flush=True)
    time.sleep(600)
"""


def _started(words: list[str], mark: str, monkeypatch: pytest.MonkeyPatch, count: int) -> "subprocess.Popen[str]":
    monkeypatch.setenv(MARK, mark)
    process = subprocess.Popen(
        [sys.executable, "-c", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "deaf\n"
    assert len(list(marked(mark))) == count
    return process


def test_killed_alone_a_parent_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _started([PARENT, WATCHED], str(tmp_path), monkeypatch, 3) as parent:
        parent.kill()
        parent.wait()
        assert left(str(tmp_path), 30) == []


def test_started_by_hand_it_watches_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _started([WATCHED], str(tmp_path), monkeypatch, 2) as alone:
        time.sleep(1)  # long enough for the end of /dev/null to be seen
        assert alone.poll() is None
        assert len(left(str(tmp_path), 0)) == 2


def test_a_device_that_hears_no_interrupt_ends_after_the_process_that_started_it() -> None:
    """As one whose interrupt was lost in a link's retries."""
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    script = (
        "import sys, time; from fedprune.deployment.device import clientapp; clientapp._CLEAN_S = 0.1; "
        "clientapp.end_with_parent(sys.argv[1:]); time.sleep(600)"
    )
    device = subprocess.Popen([sys.executable, "-c", script, "--token", "t", "--parent-pid", str(parent.pid)])
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            device.wait(3)
        parent.communicate(b"\n")
        assert device.wait(30) == 1
    finally:
        parent.kill()
        device.kill()
