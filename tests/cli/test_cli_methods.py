"""``fedprune methods``: the catalogue as a table, and one method in detail, as the code has it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fedprune import measures, methods
from fedprune.methods.describing import described, in_words
from fedprune.methods.layers import Shapes
from fedprune.types import Ask, Found, Holder, Local, Method, Model, Optimiser, Params, Part

Run = Callable[..., tuple[int, str, str]]


def mine(layers: Shapes, *, count: int, word: str = 'a "word"', deep: bool = True, seed: int = 0) -> Method:
    """What it says of itself: [a list]."""

    def start(params: Params) -> Model:
        return Model(params, memory={"scores": next(iter(params.values()))})

    def part(model: Model, holder: Holder) -> Part:
        (first, *_) = layers
        return Part({}, {first: model.params[first] > holder.device * 0.01})

    def asks(model: Model, round: int, found: Found) -> dict[str, Ask]:
        return {"counts": Ask("counts", 10)} if round % 7 == 3 else {}

    def act(model: Model, found: Found, round: int) -> Model:
        new = {"scores": model.memory["scores"] + 1}
        return model._replace(memory=new) if 3 <= round <= 20 else model._replace(memory=dict(model.memory))

    local = Local(
        loss=lambda *of: 0,
        optimiser=Optimiser(lambda trained: {}, lambda *of: None, 2),
        trains=("scores",),
        reports={"now": Ask("gradients", list(layers))},
    )
    return Method(start, part, local, lambda model, trained: model._replace(), asks, act)


def test_every_method_is_there_with_its_folder_its_paper_and_its_keys(fedprune: Run) -> None:
    code, out, _ = fedprune("methods", "--json")
    assert code == 0
    assert out.count("\n") == 1
    found = json.loads(out)
    assert [each["name"] for each in found] == list(methods.catalogue())
    for each in found:
        module = methods.find(each["name"]).__module__
        assert module == f"fedprune.methods.{each['family']}.{each['name']}"
        first = (Path(methods.__file__).parent / each["family"] / f"{each['name']}.py").read_text().splitlines()[0]
        assert each["paper"] == first.strip('"') != ""
        assert each["says"]
        assert "channels" not in [key["name"] for key in each["parameters"]]
        assert all(key["type"] in ("int", "float", "bool", "str") for key in each["parameters"])
        assert set(each["asks"]) <= set(measures.names())
        assert [*each["axes"]] == ["prunes", "when", "often", "how", "data"]
        assert all(each["axes"].values())
    _, table, _ = fedprune("methods")
    words = table.split()
    assert [each["name"] for each in found if each["name"] not in words] == []


def test_one_method_in_detail(fedprune: Run) -> None:
    code, out, _ = fedprune("methods", "fedtiny")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "fedtiny, dynamic"
    assert lines[1].startswith("FedTiny: adaptive batch-norm selection")
    for line in (
        "axes      prunes weights",
        "          during training",
        "          data-driven",
        "starts    dense",
        "acts      round 0: asks bn_statistics, losses",
        "asks      bn_statistics: development examples, forward passes, exact, so not private",
        "          top_gradients: train examples, a backward pass, exact, so not private",
        "trains    plain masked SGD",
        "keys      density: float, required",
        '          noise: str = "uniform"',
        "          fraction: float = 0.3",
    ):
        assert line in lines, out
    assert "          every 10 rounds from 10 to" in out
    one, alone = fedprune("methods", "fedtiny", "--json")[1], described("fedtiny")
    assert json.loads(one)["acts"] == {when: list(asked) for when, asked in alone.acts.items()}


@pytest.mark.parametrize(
    ("name", "starts", "trains"),
    [
        ("fedavg", "dense", ()),
        ("magnitude", "sparse", ()),
        ("heterofl", "narrow", ()),
        ("fjord", "narrow", ("trains smaller parts by turns",)),
        ("fedrolex", "narrow", ("another part in every round",)),
    ],
)
def test_what_a_method_starts_with_and_how_devices_train(name: str, starts: str, trains: tuple[str, ...]) -> None:
    found = described(name)
    assert (found.starts, found.trains, found.asks, found.acts) == (starts, trains, {}, {})


def test_what_the_server_prunes_while_it_pretrains_is_said() -> None:
    assert described("fedtiny_plus").starts == "sparse, pruned while the server pretrains"


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("fedavg", ("nothing", "never", "never", "by nothing", "data-free")),
        ("magnitude", ("weights", "before training", "one-shot", "by a criterion", "data-free")),
        ("synflow", ("weights", "before training", "one-shot", "by a criterion", "data-free")),
        ("snip", ("weights", "before training", "one-shot", "by a criterion", "data-driven")),
        ("gmp", ("weights", "during training", "iterative", "by a criterion", "data-free")),
        ("fedtiny", ("weights", "during training", "iterative", "by a criterion", "data-driven")),
        ("pdp", ("weights", "during training", "one-shot", "learnt", "data-driven")),
        ("sdgf", ("N:M groups", "during training", "one-shot", "learnt", "data-driven")),
        ("layer_lth", ("layers", "before training", "one-shot", "by a criterion", "data-driven")),
        ("flap", ("channels", "before training", "one-shot", "by a criterion", "data-driven")),
        ("heterofl", ("channels", "before training", "one-shot", "by draw or place", "data-free")),
        ("random_erk", ("weights", "before training", "one-shot", "by draw or place", "data-free")),
    ],
)
def test_where_a_method_stands_follows_from_what_it_does(name: str, axes: tuple[str, ...]) -> None:
    assert described(name).axes == axes


def test_a_method_of_ones_own_by_its_dotted_name(fedprune: Run) -> None:
    code, out, _ = fedprune("methods", "test_cli_methods:mine")
    assert code == 0
    assert out.splitlines() == [
        "test_cli_methods:mine, test_cli_methods",
        "``fedprune methods``: the catalogue as a table, and one method in detail, as the code has it.",
        "",
        "What it says of itself: [a list].",
        "",
        "axes      prunes nothing",
        "          never",
        "          never",
        "          by nothing",
        "          data-driven",
        "starts    dense",
        "acts      every 7 rounds from 3 on: asks counts",
        "          15 rounds from 4 to 20: acts",
        "asks      counts: train examples, no pass, exact, so not private",
        "          gradients: train examples, a backward pass, exact, so not private",
        "trains    a loss of its own",
        "          an optimiser of its own, 2 slots a weight",
        "          trains 1 tensor of the method's memory",
        "          reports gradients of what it trained",
        "          a part of each device's own",
        "          joined in a way of its own",
        "keys      count: int, required",
        '          word: str = "a \\"word\\""',
        "          deep: bool = true",
        "          seed: int = 0",
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nope", "'nope' is not one of "),
        ("no_such_package:x", "no_such_package:x cannot be imported: No module named"),
        ("json:dumps", "method"),
    ],
)
def test_a_name_that_is_no_methods_is_one_line(fedprune: Run, name: str, said: str) -> None:
    code, out, err = fedprune("methods", name)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(said)


@pytest.mark.parametrize(
    ("rounds", "words"),
    [
        ([0], "round 0"),
        ([3, 9], "rounds 3 and 9"),
        ([100], "every round from 100 on"),
        (range(1, 101), "every round from 1 on"),
        (range(1, 51), "every round from 1 to 50"),
        (range(10, 101, 10), "every 10 rounds from 10 on"),
        (range(10, 81, 10), "every 10 rounds from 10 to 80"),
        ([0, 10, 15, 20], "round 0, then every 5 rounds from 10 to 20"),
        ([0, 1, 5, 6], "4 rounds from 0 to 6"),
    ],
)
def test_rounds_in_words(rounds: Sequence[int], words: str) -> None:
    assert in_words(rounds) == words
