"""CONTRIBUTING's additions, followed literally in a copy of the package: files where the page says, nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fedprune.methods.layers import Shapes
from fedprune.pruning import masks
from fedprune.types import Method

ROOT = Path(__file__).parents[2]
_GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
METHODS = ("linear", "shrinkage", "activation_magnitude")
BATTERY = ROOT / "tests" / "methods" / "battery.py"


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and its tests of kinds, with the files and the entry that the guide shows."""
    copy = tmp_path_factory.mktemp("followed")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fedprune", copy / "fedprune", ignore=ignore)
    shutil.copytree(ROOT / "tests" / "laws", copy / "tests" / "laws", ignore=ignore)
    shutil.copytree(ROOT / "tests" / "methods", copy / "tests" / "methods", ignore=ignore)
    shutil.copy(ROOT / "tests" / "dealt.py", copy / "tests")
    shutil.copy(ROOT / "pyproject.toml", copy)
    blocks = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", _GUIDE, re.DOTALL)
    assert len(blocks) == 8
    for name, text in blocks:
        file = copy / name
        assert not file.exists(), f"{name} is shipped: the guide shall show another"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (copy / "tests" / "golden" / "__init__.py").touch()
    ((name, entry),) = re.findall(r"<!-- entry: (\S+) -->\n```text\n(.*?)```", _GUIDE, re.DOTALL)
    cases = "CASES: Mapping[str, Case] = {\n"
    text = (copy / name).read_text()
    assert cases in text
    (copy / name).write_text(text.replace(cases, cases + entry))
    return copy


def python(copy: Path, *words: str) -> str:
    """What a Python that knows the copy says."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(copy), *(str(copy / "tests" / at) for at in ("", "methods"))]),
    }
    done = subprocess.run([sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def pytests(copy: Path, *words: str) -> str:
    return python(copy, "-m", "pytest", "-p", "no:cacheprovider", *words)


def test_what_the_guide_shows_is_in_style(followed: Path) -> None:
    shown = re.findall(r"<!-- file: (\S+\.py) -->", _GUIDE)
    for words in (["check"], ["format", "--diff"]):
        python(followed, "-m", "ruff", *words, "--no-cache", *shown)
    for name in shown:
        assert (followed / name).read_text().startswith('"""') or name.startswith("tests/")


def test_its_golden_values_pass_and_its_kind_of_evidence_keeps_the_laws_of_kinds(followed: Path) -> None:
    said = pytests(followed, "-rA", "tests/golden", "tests/laws/test_measures.py", "-k", "golden or input_norms")
    assert len(re.findall(r"^PASSED tests/golden", said, re.MULTILINE)) == 4
    assert len(re.findall(r"^PASSED tests/laws/test_measures.py::.*\[input_norms\]", said, re.MULTILINE)) >= 10


def test_its_experiments_run_and_reach_their_densities(followed: Path) -> None:
    commands = re.findall(r"^    (fedprune (?:simulate|train|methods) .*)$", _GUIDE, re.MULTILINE)
    assert len(commands) == 6
    script = "import sys, shlex\nfrom fedprune.cli.main import app\n" + "".join(
        f"app(shlex.split({command!r})[1:] + {[*_few(command)]!r}, standalone_mode=False)\n" for command in commands
    )
    said = python(followed, "-c", script)
    assert "linear, dynamic\n" in said
    assert "acts      every round from 1 to 10: acts\n" in said
    expected = {r: 1 - 0.8 * min(r, 4) / 4 for r in range(5)}
    for name, wanted in {
        "linear": expected,
        "linear_central": expected,
        "magnitude": dict.fromkeys(range(5), 0.2),
        "shrinkage": {r: 1.0 if r < 2 else 0.2 for r in range(5)},
        "activation": dict.fromkeys(range(5), 0.2),
    }.items():
        folder = followed / "runs" / name
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        densities = {row["round"]: row["density"] for row in rows if row["phase"] == "evaluate"}
        assert densities == pytest.approx(wanted, abs=0.002), name
        asked = {row["phase"] for row in rows if row["round"] == 0} - {"choose", "evaluate"}
        assert asked == ({"input_norms"} if name == "activation" else set())
        assert (folder / "model.tflite").exists()


def _few(command: str) -> Sequence[str]:
    """Few examples, in one process: densities do not depend on them."""
    alone = ("--workers", "1") if " simulate " in command else ()
    return (*alone, "--set", "data.examples=160") if " methods " not in command else ()


@pytest.mark.skipif(not BATTERY.exists(), reason="no battery of laws is here yet")
def test_every_law_of_methods_holds_for_what_the_guide_adds(followed: Path) -> None:
    # the hook: whatever laws the battery has, each is tried on each addition, in the copy where it is of the catalogue
    laws = "".join(
        f"for law in battery.LAWS:\n    print({name!r}, law, flush=True)\n    battery.hold(law, {name!r})\n"
        for name in METHODS
    )
    said = [line.split() for line in python(followed, "-c", f"import battery\n{laws}").splitlines()]
    assert all(sum(words[0] == name for words in said) > 5 for name in METHODS)


def test_the_readmes_method_swaps_what_it_says_and_keeps_its_density() -> None:
    (text,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(text.splitlines()) <= 20
    shown: dict[str, object] = {}
    exec(text, shown)
    layers: Shapes = {"a": (20, 10), "b": (10, 20)}
    method = shown["rigl"](layers, density=0.3, period=2, stop=10, seed=3)  # type: ignore[operator]
    assert isinstance(method, Method)
    rng = np.random.default_rng(0)
    model = method.start({name: rng.normal(size=shape).astype(np.float32) for name, shape in layers.items()})
    assert masks.density(model.masks) == pytest.approx(0.3, abs=0.01)
    assert method.asks(model, 1, {}) == {}
    asked = method.asks(model, 2, {})["grad"]
    assert asked.kind == "top_gradients"
    # fraction/2 · (1 + cos(π · 2/10)) of what is kept: 0.2714 of it
    kept = {name: int(mask.sum()) for name, mask in model.masks.items()}
    assert asked.args == {name: int(0.2713525 * count) for name, count in kept.items()}
    gradients = {name: rng.normal(size=shape) for name, shape in layers.items()}
    after = method.act(model, {"grad": gradients}, 2)
    for name, mask in after.masks.items():
        grown, dropped = mask & ~model.masks[name], model.masks[name] & ~mask
        assert grown.sum() == dropped.sum() == asked.args[name]
        left = ~model.masks[name] & ~mask
        assert np.abs(gradients[name][grown]).min() >= np.abs(gradients[name][left]).max()
        stayed = model.masks[name] & mask
        assert np.abs(model.params[name][dropped]).max() <= np.abs(model.params[name][stayed]).min()
        assert not after.params[name][grown].any()
    assert method.act(model, {"grad": {}}, 2) is model
    assert method.asks(model, 12, {}) == {}
