"""Examples in docstrings: each gives what it says, and no public function of the pure rooms is without one."""

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

from fedprune import pruning

_PRUNING = [found.name for found in pkgutil.walk_packages(pruning.__path__, "fedprune.pruning.")]
PURE = [*_PRUNING, "fedprune.aggregation", "fedprune.lazy", "fedprune.wire"]
OTHERS = [
    "fedprune.runs.int8_facts",
    "fedprune.runs.report.warned",
    "fedprune.graph.coupling",
    "fedprune.graph.surgery",
    "fedprune.graph.width",
]


def documented(module: ModuleType) -> dict[str, list[doctest.Example]]:
    """Return the examples of a module by the name of what they are about; its own are under its name."""
    found = doctest.DocTestFinder(exclude_empty=False).find(module)
    return {each.name.removeprefix(f"{module.__name__}."): each.examples for each in found}


@pytest.mark.parametrize("name", [*PURE, *OTHERS])
def test_examples_give_what_they_say(name: str) -> None:
    module = importlib.import_module(name)
    assert any(documented(module).values())
    failed, _ = doctest.testmod(module)
    assert not failed, "what was expected and what came is printed above"


@pytest.mark.parametrize("name", PURE)
def test_every_public_function_has_an_example(name: str) -> None:
    module, examples = importlib.import_module(name), documented(importlib.import_module(name))
    public = [
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == name and not key.startswith("_")
    ]
    assert [key for key in public if not examples[key]] == []
