"""The door through which an experiment's table becomes a method; what is true of any is in test_battery.py."""

import inspect
import math
from typing import Any

import numpy as np
import pytest

from fedprune import methods
from fedprune.graph.coupling import Group, Member
from fedprune.methods import MethodError, build, catalogue, find
from fedprune.pruning import masks
from fedprune.pruning.topk import kept_count
from fedprune.types import Masks, Method, Model, Params

LAYERS = {"a.weight": (6, 4, 3, 3), "b.weight": (8, 6, 3, 3), "c.weight": (10, 8)}
NEEDED = {"density": 0.2, "width": 0.5}
SIZE = sum(math.prod(shape) for shape in LAYERS.values())


def channels() -> tuple[list[Group], methods.Shapes]:
    """a's channels are read by b, b's by c; those of c are the output's."""

    def group(name: str, reader: str, size: int) -> Group:
        places = np.arange(size)[:, None]
        rows, columns = f"{name}.weight", f"{reader}.weight"
        members = Member(rows, LAYERS[rows], 0, places, True), Member(columns, LAYERS[columns], 1, places, False)
        return Group(name, size, members)

    return [group("a", "b", 6), group("b", "c", 8)], LAYERS


def weights() -> Params:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in LAYERS.items()}


def begun(table: dict[str, Any], theta: Params, seed: int = 0) -> Masks:
    """The masks that a method starts with."""
    return build(table, LAYERS, seed).start(theta).masks


def table(name: str, **given: Any) -> dict[str, Any]:
    takes = inspect.signature(find(name)).parameters
    return {"name": name, **{key: value for key, value in NEEDED.items() if key in takes}, **given}


@pytest.mark.parametrize(("name", "key"), [(n, key) for n in catalogue() for key in NEEDED if key in table(n)])
@pytest.mark.parametrize("value", [0, 0.0, -0.5, 1.5, float("nan")])
def test_a_density_or_width_out_of_range_is_refused_at_the_door(name: str, key: str, value: float) -> None:
    with pytest.raises(MethodError, match=rf"^method: {key} {value} is outside \(0, 1\]$"):
        build({"name": name, key: value}, LAYERS, 0, channels=channels)


def test_fedavg_is_dense() -> None:
    method, theta = build({"name": "fedavg"}, LAYERS, 0), weights()
    model = method.start(theta)
    assert model.params is theta
    assert not model.masks
    assert not model.parts
    assert all(method.act(model, {}, round) is model and not method.asks(model, round, {}) for round in range(5))


def test_magnitude_keeps_the_largest_of_all() -> None:
    theta = weights()
    mask = begun({"name": "magnitude", "density": 0.1}, theta)
    every = np.sort(np.abs(np.concatenate([value.reshape(-1) for value in theta.values()])))[::-1]
    threshold = every[kept_count(0.1, SIZE) - 1]
    assert all(np.array_equal(mask[name], np.abs(value) >= threshold) for name, value in theta.items())
    theta["c.weight"] *= 1e-6
    starved = begun({"name": "magnitude", "density": 0.1}, theta)
    floored = begun({"name": "magnitude", "density": 0.1, "floor": 0.05}, theta)
    assert masks.kept(starved) == masks.kept(floored) == kept_count(0.1, SIZE)
    assert starved["c.weight"].sum() == 0
    assert floored["c.weight"].sum() == 4


def test_random_masks_are_the_seeds_and_not_the_weights() -> None:
    given = {"name": "random_erk", "density": 0.2}
    one = begun(given, weights(), seed=1)
    same = begun({**given, "seed": 1}, {n: -v + 3 for n, v in weights().items()}, seed=9)
    other = begun(given, weights(), seed=2)
    even = begun({**given, "by_erk": False}, weights(), seed=1)
    assert masks.equal(one, same)
    assert not masks.equal(one, other)
    assert masks.densities(one)["c.weight"] > masks.densities(one)["b.weight"]
    assert {n: int(m.sum()) for n, m in even.items()} == {n: int(0.2 * math.prod(s)) for n, s in LAYERS.items()}


# the door


def mine(
    layers: methods.Shapes, *, size: int, ratio: float = 0.5, fast: bool = False, word: str = "x", seed: int
) -> Method:
    """A method of one's own; its memory tells what it was given."""
    told = str((size, ratio, fast, word, seed, tuple(layers)))
    return Method(lambda params: Model(params, memory={told: np.ones(1)}))


def wrong(layers: methods.Shapes) -> str:
    return "no method"


def given_to(given: dict[str, Any], seed: int = 3) -> str:
    (name,) = build({"name": f"{__name__}:mine", **given}, {"l": (1,)}, seed).start({}).memory
    return name


def test_a_dotted_name_is_imported_and_gets_its_parameters() -> None:
    assert given_to({"size": 2}) == str((2, 0.5, False, "x", 3, ("l",)))
    given = {"size": -1, "ratio": 1, "fast": True, "word": "", "seed": 8}
    assert given_to(given) == str((-1, 1, True, "", 8, ("l",)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "nope"}, r"method\.name: 'nope' is not one of \w+, .*, nor a dotted name"),
        ({"name": ""}, r"method\.name: '' is not one of"),
        (
            {"name": "no_such_package:x"},
            r"method\.name: no_such_package:x cannot be imported: No module named .*PYTHONPATH",
        ),
        ({"name": "json:nope"}, r"method\.name: json:nope cannot be imported: .*no attribute 'nope'"),
        ({"name": ":nope"}, r"method\.name: :nope cannot be imported"),
        ({"name": ".json:nope"}, r"method\.name: \.json:nope cannot be imported"),
        ({"name": "json:__name__"}, r"method\.name: json:__name__ is not a function"),
        ({"name": f"{__name__}:wrong"}, r"method\.name: .*:wrong returned str, expected a fedprune\.types\.Method"),
        ({"name": "fedavg", "density": 0.1}, r"method\.density: unknown key; fedavg takes no parameters"),
        ({"name": "magnitude", "densty": 0.1}, r"method\.densty: unknown key; magnitude takes density, floor"),
        ({"name": "magnitude", "density": 0.1, "layers": 1}, r"method\.layers: unknown key"),
        ({"name": "magnitude"}, r"method\.density: missing; magnitude has no default for it"),
        ({"name": "magnitude", "density": "0.1"}, r"method\.density: expected a number, got '0\.1'"),
        ({"name": "magnitude", "density": True}, r"method\.density: expected a number, got True"),
        ({"name": "magnitude", "density": [0.1]}, r"method\.density: expected a number, got \[0\.1\]"),
        ({"name": "magnitude", "density": 0.1, "floor": 0.2}, r"method: floor 0\.2 is above the density 0\.1"),
        ({"name": "magnitude", "density": 0.1, "floor": -0.2}, r"method: floor -0\.2 is outside \[0, 1\]"),
        ({"name": "random_erk", "density": 0.1, "by_erk": 1}, r"method\.by_erk: expected true or false, got 1"),
        ({"name": "fedtiny", "density": 0.1, "pool": 2.0}, r"method\.pool: expected a whole number, got 2\.0"),
        ({"name": "fedtiny", "density": 0.1, "pool": True}, r"method\.pool: expected a whole number, got True"),
        ({"name": "fedtiny", "density": 0.1, "noise": 3}, r"method\.noise: expected a text, got 3"),
        ({"name": "fedtiny", "density": 0.1, "noise": "x"}, r"method: noise 'x' is not one of uniform, erk"),
        ({"name": "gmp", "density": 0.1, "initial": 0.05}, r"method: initial 0\.05 is outside \[density, 1\]"),
        ({"name": "granet", "density": 0.1, "initial": 1.5}, r"method: initial 1\.5 is outside \[density, 1\]"),
        ({"name": "gmp", "density": 0.1, "begin": 9, "stop": 5}, r"method: begin 9 is outside 0 to stop, 5"),
        ({"name": "gmp", "density": 0.1, "period": 0}, r"method: period 0 is not a positive number"),
        ({"name": "set", "density": 0.1, "fraction": -0.1}, r"method: fraction -0\.1 is outside \[0, 1\]"),
        ({"name": "rigl", "density": 0.1, "fraction": 1.1}, r"method: fraction 1\.1 is outside \[0, 1\]"),
        ({"name": "snip", "density": 0.1, "floor": 0.2}, r"method: floor 0\.2 is above the density 0\.1"),
        ({"name": "synflow", "density": 0.1, "iterations": 0}, r"method: iterations 0 is outside 1 to 1000"),
        ({"name": "heterofl", "width": 0.5, "channels": 1}, r"method\.channels: unknown key; heterofl takes width$"),
        ({"name": "fjord"}, r"method\.width: missing; fjord has no default for it$"),
        ({"name": "fedrolex", "width": 0.5}, r"method\.name: fedrolex needs the coupled channels of a model"),
        ({"name": "fedtiny", "density": 0.1, "seed": "x"}, r"method\.seed: expected a whole number, got 'x'"),
    ],
)
def test_a_table_that_is_wrong_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^{message}") as error:
        build(given, LAYERS, 0)
    assert "\n" not in str(error.value)
