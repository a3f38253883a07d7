"""Golden values of scoring, allocating, scheduling and masking, each worked by hand."""

import numpy as np
import pytest

from fedprune import measures
from fedprune.pruning import candidates, criteria
from fedprune.pruning.allocation import at_least, erk, ranked, uniform
from fedprune.pruning.candidates import candidate_counts, candidate_masks, choose, pool_size
from fedprune.pruning.granularity import channel
from fedprune.pruning.pruners import prune, regrow
from fedprune.pruning.schedules import constant, cosine, cubic, exponential, linear, one_shot
from fedprune.pruning.turns import blocks_by_name
from fedprune.wire.payload import Payload


def test_criteria() -> None:
    values = np.array([-2.0, 0.0, 1.5])
    assert criteria.magnitude(values).tolist() == [2.0, 0.0, 1.5]
    assert criteria.gradient(values).tolist() == [2.0, 0.0, 1.5]
    assert criteria.random(values) is values
    needs = {name: criteria.needs(getattr(criteria, name)) for name in ("magnitude", "gradient", "random")}
    assert needs == {"magnitude": ("weight",), "gradient": ("grad",), "random": ("noise",)}


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (constant(0.3), {0: 0.3, 7: 0.3}),
        (one_shot(1.0, 0.1, at=3), {2: 1.0, 3: 0.1, 4: 0.1}),
        (linear(1.0, 0.2, begin=10, end=20), {9: 1.0, 10: 1.0, 15: 0.6, 20: 0.2, 30: 0.2}),
        # 0.1 + 0.9 · (1 − 1/2)³
        (cubic(1.0, 0.1, end=8), {0: 1.0, 4: 0.2125, 8: 0.1}),
        # √(1 · 0.01)
        (exponential(1.0, 0.01, end=4), {0: 1.0, 2: 0.1, 4: 0.01}),
        # 0.1 + 0.1 · (1 + cos π/3)
        (cosine(0.3, 0.1, end=9), {0: 0.3, 3: 0.25, 9: 0.1, 99: 0.1}),
    ],
)
def test_schedules(schedule: object, values: dict[int, float]) -> None:
    assert {step: schedule(step) for step in values} == pytest.approx(values, abs=1e-12)  # type: ignore[operator]


def test_the_published_swap_fractions_of_fedtiny() -> None:
    fraction = cosine(0.3, end=100)
    published = [0.293, 0.271, 0.238, 0.196, 0.150, 0.104, 0.062, 0.029, 0.007, 0.0]
    assert [round(fraction(r), 3) for r in range(10, 101, 10)] == published


def test_erk_with_a_capped_layer() -> None:
    # Σ/Π: a 7/12, b 3/2, c 20/100; budget 0.3 · 114 = 34.2; Σ dims 30. Scale 1.14 caps b (1.71), which takes 2;
    # the rest shares 32.2 over 27
    shapes = {"a": (3, 4), "b": (1, 2), "c": (10, 10)}
    shared = erk(shapes)({name: np.zeros(shape) for name, shape in shapes.items()}, 0.3)
    assert shared == pytest.approx({"a": 32.2 / 27 * 7 / 12, "b": 1.0, "c": 32.2 / 27 * 0.2}, abs=1e-15)
    assert shared["b"] == 1.0


def test_other_allocations() -> None:
    scores = {"a": np.array([9.0, 1.0, 8.0, 7.0]), "b": np.array([2.0, 7.0]), "c": np.array([0.0, 0.5])}
    assert uniform(scores, 0.5) == {"a": 0.5, "b": 0.5, "c": 0.5}
    # the four largest are 9, 8 and two 7s
    assert ranked()(scores, 0.5) == {"a": 0.75, "b": 0.5, "c": 0.0}
    # c takes one for its floor, so the later of the 7s goes: a's stays, but b has its own floor
    assert ranked(floor=0.5)(scores, 0.5) == {"a": 0.5, "b": 0.5, "c": 0.5}
    assert at_least(0.6, ranked())(scores, 0.5) == {"a": 0.75, "b": 0.6, "c": 0.6}


def test_pruning_by_magnitude() -> None:
    weights = {"w": np.array([[0.1, -3.0], [2.0, -2.0], [0.0, 0.5]])}
    start = {"w": np.array([[True, True], [True, True], [True, False]])}
    half = prune(criteria.magnitude, constant(0.5)).update(start, {"weight": weights}, 0)
    assert half["w"].tolist() == [[False, True], [True, True], [False, False]]
    # means of |w| over a channel: 1.55, 2.0, 0.25; one of three channels
    one = prune(criteria.magnitude, constant(0.4), across=channel).update(start, {"weight": weights}, 0)
    assert one["w"].tolist() == [[False, False], [True, True], [False, False]]


def test_regrowing() -> None:
    # 5 kept, ⌊0.5 · 5⌋ = 2: grow −9 and 4 of the pruned; drop 0.1 and the first of the 0.2s
    masks = {"w": np.array([True, True, True, True, True, False, False, False])}
    weight = np.array([1.0, -0.2, 0.1, 0.2, -3.0, 0.0, 0.0, 0.0])
    grad = np.array([99.0, 99.0, 99.0, 0.0, 0.0, 4.0, 1.0, -9.0])
    swap = regrow(criteria.magnitude, criteria.gradient, constant(0.5))
    assert swap.grows(masks, 0) == {"w": 2}
    after = swap.update(masks, {"weight": {"w": weight}, "grad": {"w": grad}}, 0)
    assert after["w"].tolist() == [True, False, False, True, True, True, False, True]


def test_a_swap_is_no_larger_than_what_is_pruned() -> None:
    masks = {"w": np.array([True] * 7 + [False]), "dense": np.ones(4, bool)}
    assert regrow(criteria.magnitude, criteria.gradient, constant(0.5)).grows(masks, 0) == {"w": 1}


def test_blocks_of_the_nets() -> None:
    digits = [f"stage{s}.{i}.conv.weight" for s in (1, 2, 3) for i in (0, 1)]
    assert blocks_by_name(digits, 5) == (tuple(digits[:2]), tuple(digits[2:4]), tuple(digits[4:]))
    # VGG: one module, eight layers less the first: five runs of consecutive layers
    vgg = [f"features.{i}.weight" for i in range(7)]
    assert [len(block) for block in blocks_by_name(vgg, 5)] == [2, 2, 1, 1, 1]


def test_candidates_are_nested_tops_of_the_same_weights() -> None:
    weights = {"a": np.array([3.0, -5.0, 1.0, 4.0]), "b": np.array([-1.0, 1.0])}
    masks = candidate_masks(weights, {"a": 2, "b": 1})
    assert masks["a"].tolist() == [False, True, False, True]
    assert masks["b"].tolist() == [True, False]


@pytest.mark.parametrize(("density", "size"), [(0.1, 1), (0.05, 2), (0.01, 10), (0.003, 33), (0.001, 100), (1.0, 1)])
def test_pool_sizes(density: float, size: int) -> None:
    assert pool_size(density) == size


def test_a_density_that_the_layers_cannot_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_MOST_DRAWS", 100)
    # each keeps at least one weight: half of all
    with pytest.raises(ValueError, match=r"no candidate of density 0\.1 .* 2 layers, 4 weights"):
        candidate_counts({"a": (2,), "b": (2,)}, 0.1, 1, seed=0)


def test_a_density_between_whole_numbers_of_weights_is_refused_before_any_draw() -> None:
    def drawn(*_: object) -> dict[str, float]:
        raise AssertionError("drawn")

    # 5 of 100 are 2.9 % too few, 6 are 17 % too many
    with pytest.raises(ValueError, match=r"no candidate of density 0\.0515 "):
        candidate_counts({"a": (10, 10)}, 0.0515, 1, seed=0, noise=drawn)
    assert candidate_counts({"a": (10, 10)}, 0.051, 1, seed=0) == ({"a": 5},)


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ([13 / 94, 12 / 94], 1),
        ([1.0, 1.0, 1.0], 0),  # ties to the first
        ([np.inf, 9.0, np.inf], 1),
        ([np.inf, np.inf], 0),
    ],
)
def test_choosing(losses: list[float], chosen: int) -> None:
    assert choose({"loss": np.array(losses), "examples": np.asarray(94)}) == chosen


def test_choosing_where_nobody_could_compare_or_had_an_example() -> None:
    assert choose({}) == 0
    with pytest.raises(ValueError, match="no device has development examples"):
        choose({"loss": np.full(2, np.inf), "examples": np.asarray(0)})


def test_losses_of_devices_count_by_their_examples() -> None:
    def merged(*told: tuple[list[float | None], int]) -> list[float]:
        pool = candidates.Pool([{}, {}], None)  # type: ignore[arg-type]
        answers = [Payload({"losses": losses, "examples": examples}) for losses, examples in told]
        return measures.find("losses").merge(answers, pool)["loss"].tolist()

    # sums 13, 12: the larger device outvotes the smaller
    assert merged(([3.0, 5.0], 4), ([10.0, 7.0], 90)) == [13 / 94, 12 / 94]
    # a device without examples does not vote, whatever it sends
    assert merged(([0.0, 1e9], 0), ([2.0, 1.0], 3)) == [2 / 3, 1 / 3]
    # what one device cannot run is nobody's choice
    assert merged(([None, 5.0], 2), ([0.0, 5.0], 2)) == [np.inf, 2.5]
