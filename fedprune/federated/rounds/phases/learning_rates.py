"""The learning rate of devices in each round, as an experiment has it."""

from collections.abc import Sequence

from fedprune.experiment import Experiment, Stretch
from fedprune.pruning.schedules import constant, cosine, linear
from fedprune.types import Schedule


def learning_rate(experiment: Experiment, round: int) -> float:
    """The experiment's schedule, or a cosine from the first round's learning rate to the last's; rounds from 1."""
    training = experiment.training
    first, last = training.learning_rate, training.final_learning_rate
    if training.schedule:
        return scheduled(first, training.schedule, round)
    if last is None or experiment.rounds == 1:
        return first
    return cosine(first, last, end=experiment.rounds - 1)(round - 1)


def scheduled(first: float, stretches: Sequence[Stretch], round: int) -> float:
    """A learning rate that is ``first`` in round 1 and ``to`` in the last round of each stretch, and stays after it.

    >>> warm_up = Stretch(3, to=0.3), Stretch(2), Stretch(2, to=0.1, along="step")
    >>> [round(scheduled(0.1, warm_up, number), 3) for number in range(1, 9)]
    [0.1, 0.2, 0.3, 0.3, 0.3, 0.1, 0.1, 0.1]
    """
    rate, at = first, 1
    for index, stretch in enumerate(stretches):
        to = rate if stretch.to is None else stretch.to
        # the first begins in round 1, each other in the last round of the one before
        length = stretch.rounds if index else stretch.rounds - 1
        if round <= at + length:
            return _along(stretch, rate, to, length)(round - at)
        rate, at = to, at + length
    return rate


def _along(stretch: Stretch, rate: float, to: float, length: int) -> Schedule:
    """From ``rate`` at 0 to ``to`` at ``length``."""
    shapes = {"line": linear(rate, to, end=length), "cosine": cosine(rate, to, end=length), "step": constant(to)}
    return shapes[stretch.along]
