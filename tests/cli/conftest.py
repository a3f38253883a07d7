"""A user's own folder with a tiny net and tiny data, and one finished run in it that many tests read."""

import functools
import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from process_tools import default_interrupt, python_path

OWN_WORLD = '''
"""What a user brings: a loader and nets."""
import numpy as np
import torch
from torch import nn

from fedprune.data import Dataset, Examples


def load(data_dir=None):
    rng = np.random.default_rng(0)
    labels = np.arange(150, dtype=np.int64) % 3
    patterns = rng.integers(0, 256, (3, 1, 6, 6))
    inputs = np.clip(patterns[labels] + rng.integers(-60, 60, (150, 1, 6, 6)), 0, 255).astype(np.uint8)
    half = np.full((1, 1, 1), 0.5, np.float32)
    return Dataset("own", Examples(inputs, labels), None, ("a", "b", "c"), (1, 6, 6), half, half, scale=1 / 255)


def net(input_shape, classes):
    def conv(i, o):
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
    return nn.Sequential(conv(1, 6), conv(6, 8), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, classes))


class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x):
        return self.layer(x.flatten(1))


def wrong_forward(input_shape, classes):
    return Wrong()


def wrong_classes(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes + 1))


class Sorted(nn.Module):
    def forward(self, x):
        return torch.sort(x, 1).values


def not_exportable(input_shape, classes):
    return nn.Sequential(net(input_shape, classes), Sorted())


def no_data(data_dir=None):
    return 3
'''

EXPERIMENT = """
model = "own_world:net"
rounds = 2

[data]
name = "own_world:load"
devices = 3
partition = "iid"
public = 0.2

[training]
epochs = 20  # long enough to be stopped in
batch = 8
grow_batch = 16

[pretraining]
epochs = 1

[method]
name = "fedtiny"
density = 0.3
pool = 2
period = 1
stop = 10
"""


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with own_world.py and tiny.toml, to be the working directory and on PYTHONPATH."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "own_world.py").write_text(OWN_WORLD)
    (folder / "tiny.toml").write_text(EXPERIMENT)
    sys.path.insert(0, str(folder))  # for commands that run in this process
    return folder


def start(world: Path, *words: str) -> "subprocess.Popen[str]":
    """The command line as a process of its own, in a group of its own as from a shell."""
    environment = {**os.environ, "PYTHONPATH": python_path(world), "COLUMNS": "80"}
    command = [sys.executable, "-c", "from fedprune.cli.main import main; main()", *words]
    return subprocess.Popen(
        command, cwd=world, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=default_interrupt,
    )  # fmt: skip


@pytest.fixture
def running(world: Path) -> "Callable[..., subprocess.Popen[str]]":
    """Starts the command line as a process of its own, and does not wait."""
    return functools.partial(start, world)


@pytest.fixture(scope="session")
def process(world: Path) -> Callable[..., Ended]:
    """Runs the command line as a process of its own."""

    def run(*words: str) -> Ended:
        started = start(world, *words)
        out, err = started.communicate(timeout=300)
        return Ended(started.returncode, out, err)

    return run


@pytest.fixture
def fedprune(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs the command line in this process and in an empty working directory: torch is loaded once for all tests."""
    from fedprune.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDPRUNE_DATA_DIR", raising=False)

    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["fedprune", *words])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def here(world: Path) -> Callable[..., Ended]:
    """Runs the command line in this process and in the world's folder, for what is made once for many tests."""
    from fedprune.cli.main import main

    def run(*words: str) -> Ended:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
            patched.chdir(world)
            patched.setenv("COLUMNS", "80")
            patched.delenv("FEDPRUNE_DATA_DIR", raising=False)
            patched.setattr(sys, "argv", ["fedprune", *words])
            try:
                main()
            except SystemExit as exit:
                code = int(exit.code or 0)
        return Ended(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def finished(world: Path, here: Callable[..., Ended]) -> Path:
    """The folder of a finished run, as ``fedprune simulate tiny.toml`` leaves it; no test may change it."""
    ended = here("simulate", "tiny.toml", "--workers", "1", "--out", "finished")
    assert ended.code == 0, ended.err
    (world / "finished.txt").write_text(ended.out)
    return world / "finished"
