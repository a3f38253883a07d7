"""CONTRIBUTING's five steps, followed literally with its toy method."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

_GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def followed(tmp_path: Path) -> Path:
    """A folder with the files that the guide shows."""
    blocks = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", _GUIDE.read_text(), re.DOTALL)
    assert [name for name, _ in blocks] == ["gmp.py", "test_gmp.py", "gmp.toml"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_golden_value_of_the_guide_passes(followed: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_gmp.py"]
    done = subprocess.run(command, cwd=followed, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_experiment_of_the_guide_runs_and_reaches_its_density(followed: Path) -> None:
    # a method of one's own, by its dotted name
    command = [
        sys.executable,
        "-m",
        "fedprune.cli",
        "simulate",
        "gmp.toml",
        "--set",
        "method.name=gmp:gmp",
        "--out",
        "run",
    ]
    done = subprocess.run(command, cwd=followed, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (followed / "run" / "metrics.jsonl").read_text().splitlines()]
    densities = {row["round"]: row["density"] for row in rows if row["phase"] == "evaluate"}
    expected = {r: 0.2 + 0.8 * (1 - min(r, 4) / 4) ** 3 for r in range(6)}
    assert densities == pytest.approx(expected, abs=0.002)
    assert (followed / "run" / "model.tflite").exists()
