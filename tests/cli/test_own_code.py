"""What a user's module raises is one line with its own file and line, and exit code 2, before anything is trained."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

FAILING = {
    "failing_data": """
import numpy as np
from fedprune.data import Dataset, Examples
def missing(data_dir=None):
    return np.load("nowhere.npy")  # line 5
def takes_nothing():
    return None
def ragged(data_dir=None):
    return Dataset("mine", Examples([[1, 2], [3]], [0, 1]))  # line 9
def helped(data_dir=None):
    import failing_helper
    return failing_helper.read({})
no_function = 3
def raw(data_dir=None):
    labels = np.arange(90) % 2
    noise = np.random.default_rng(0).integers(0, 60, (90, 1, 6, 6))
    return Dataset("raw", Examples((noise + 100 * labels[:, None, None, None]).astype(np.uint8), labels), mean=0, std=1)
""",
    "failing_helper": """
def read(table):
    return table["nothing"]  # line 3
""",
    "failing_import": "import json\njson.loads('{')  # line 2\n",
    "failing_syntax": "x = 1\ny = (\n",
    "failing_nets": """
from torch import nn
def takes_no_shape(classes):
    return nn.Linear(36, classes)
def broken(input_shape, classes):
    return nn.Linear(input_shape["width"], classes)  # line 6
class Net(nn.Module):
    def __init__(self, classes, training_only=False):
        super().__init__()
        self.first, self.second = nn.Linear(36, 20), nn.Linear(10, classes)
        self.training_only = training_only
    def forward(self, x):
        if self.training_only and not self.training:
            return self.second(self.first(x.flatten(1))[:, :10])
        return self.second(self.first(x.flatten(1)))  # line 15
def wrong_forward(input_shape, classes):
    return Net(classes)
def probable(input_shape, classes):
    body = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, classes))
    return nn.Sequential(body, nn.Softmax(1))
def wrong_in_training(input_shape, classes):
    return Net(classes, True)
""",
    "failing_methods": """
from fedprune.methods.layers import dense
from fedprune.types import Method
def broken(layers, *, density: float = 1.0):
    return layers["no such layer"]  # line 5
def takes_no_layers():
    return None
def cannot_act(layers):
    def act(model, found, round):
        return model.nothing  # line 10
    return Method(dense(layers), act=act)
def odd(layers, *, density: "nowhere.Float" = 1.0):  # line 12
    return None
def later(layers):
    def act(model, found, round):
        return model if round < 2 else model.nothing  # line 16
    return Method(dense(layers), act=act)
""",
}
CASES = {
    "data.name=failing_data:missing": r"data: .*failing_data\.py, line 5, in missing: FileNotFoundError: .*nowhere",
    "data.name=failing_data:takes_nothing": r"failing_data\.py, line 6: takes_nothing\(\): got an unexpected keyword",
    "data.name=failing_data:ragged": r"failing_data\.py, line 9, in ragged: inputs are no array: ",
    "data.name=failing_data:helped": r"failing_helper\.py, line 3, in read: KeyError: 'nothing'",
    "data.name=failing_data:no_function": r"failing_data:no_function is a int, expected a function",
    "data.name=failing_import:load": r"failing_import\.py, line 2, in <module>: JSONDecodeError: Expecting",
    "data.name=failing_syntax:load": r"failing_syntax\.py, line 2: SyntaxError: '\(' was never closed",
    "model=failing_import:net": r"model: .*failing_import\.py, line 2, in <module>: JSONDecodeError: ",
    "model=failing_nets:takes_no_shape": r"failing_nets\.py, line 3: takes_no_shape\(classes\): got an unexpected",
    "model=failing_nets:broken": r"failing_nets\.py, line 6, in broken: TypeError: ",
    "model=failing_nets:wrong_forward": r"failing_nets\.py, line 15, in forward: RuntimeError: mat1 and mat2",
    "model=failing_nets:wrong_in_training": r"failed in training mode: .*line 15, in forward: RuntimeError: mat1",
    "method.name=failing_import:x": r"method\.name: .*failing_import\.py, line 2, in <module>: JSONDecodeError: ",
    "method.name=failing_methods:broken": r"method: .*failing_methods\.py, line 5, in broken: KeyError: ",
    "method.name=failing_methods:takes_no_layers": r"failing_methods\.py, line 6: .*takes no layers",
    "method.name=failing_methods:cannot_act": r"method: .*line 10, in act: AttributeError: 'Model' object has no",
    "method.name=failing_methods:odd": r"failing_methods\.py, line 12: .*NameError: name 'nowhere'",
}


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: Path) -> str:
    """The experiment's file; modules that fail lie on the path, and in no folder that a test looks at."""
    folder = tmp_path.parent / f"{tmp_path.name}_modules"
    folder.mkdir()
    for name, text in FAILING.items():
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    return str(world / "tiny.toml")


@pytest.mark.parametrize("change", CASES)
def test_the_users_own_line_is_named(
    fedprune: Callable[..., tuple[int, str, str]], failing: str, tmp_path: Path, change: str
) -> None:
    code, _, err = fedprune("simulate", failing, "--set", 'method={name="fedavg"}', "--set", change)
    assert code == 2
    assert err.startswith(f"{failing}: ")
    assert err.count("\n") == 1
    assert re.search(CASES[change], err), err
    assert list(tmp_path.iterdir()) == []


def test_what_fails_in_a_later_round_is_one_line_as_well(
    fedprune: Callable[..., tuple[int, str, str]], failing: str
) -> None:
    words = ("--set", 'method={name="failing_methods:later"}', "--set", "training.epochs=1", "--out", "run")
    code, _, err = fedprune("train", failing, *words)
    assert code == 2
    assert re.fullmatch(r".*failing_methods\.py, line 16, in act: AttributeError: .*nothing'\n", err), err


def test_what_is_noticed_is_said_before_training(fedprune: Callable[..., tuple[int, str, str]], failing: str) -> None:
    words = ('method={name="fedavg"}', "rounds=0", "model=failing_nets:probable", "data.name=failing_data:raw")
    code, out, err = fedprune("train", failing, *(word for each in words for word in ("--set", each)), "--out", "run")
    assert code == 0, err
    raw, softmax = out.splitlines()[:2]
    assert "data: raw: with scale 1, mean 0 and std 1 inputs from 0 to 159 reach the model unscaled" in raw
    assert "model: failing_nets:probable ends in a softmax: what comes before it" in softmax
