"""Learning rates of rounds: a schedule goes through the rates that it names, and a cosine is one of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.experiment import Experiment, Stretch, parse
from fedprune.federated.rounds.phases.learning_rates import learning_rate, scheduled

rates = st.floats(1e-4, 1.0)
stretches = st.lists(
    st.builds(Stretch, st.integers(1, 6), rates, st.sampled_from(["line", "cosine", "step"])), min_size=1, max_size=4
)


def experiment(rounds: int, **training: object) -> Experiment:
    table = {"data": {"name": "digits", "devices": 2}, "model": "digits_cnn", "method": {"name": "fedavg"}}
    return parse({**table, "rounds": rounds, "name": "run", "training": training}, "test")


@given(rates, stretches)
def test_a_schedule_comes_to_each_rate_in_the_last_round_of_its_stretch(first: float, given: list[Stretch]) -> None:
    ends = [sum(each.rounds for each in given[: index + 1]) for index in range(len(given))]
    for end, each in zip(ends, given, strict=True):
        assert scheduled(first, given, end) == pytest.approx(each.to)
    assert scheduled(first, given, ends[-1] + 9) == pytest.approx(given[-1].to)
    named = [first, *(each.to or first for each in given)]
    assert all(min(named) * 0.999 <= scheduled(first, given, at) <= max(named) * 1.001 for at in range(1, ends[-1] + 3))


@given(st.integers(2, 30), rates, rates)
def test_one_cosine_is_the_final_learning_rate(rounds: int, first: float, last: float) -> None:
    asked = experiment(rounds, learning_rate=first, final_learning_rate=last)
    schedule = [{"rounds": rounds, "to": last, "along": "cosine"}]
    same = experiment(rounds, learning_rate=first, schedule=schedule)
    assert [learning_rate(asked, at) for at in range(1, rounds + 1)] == [
        learning_rate(same, at) for at in range(1, rounds + 1)
    ]


def test_a_warm_up_a_step_and_a_line_worked_by_hand() -> None:
    schedule = [
        {"rounds": 3, "to": 0.3},
        {"rounds": 2},
        {"rounds": 1, "to": 0.1, "along": "step"},
        {"rounds": 2, "to": 0.05},
    ]
    asked = experiment(9, learning_rate=0.1, schedule=schedule)
    found = [learning_rate(asked, at) for at in range(1, 10)]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3, 0.1, 0.075, 0.05, 0.05])
