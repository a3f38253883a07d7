"""HESSO's claims: exactly K channels fade to 0, untuned, and CRIC spares what matters though it looks small."""

import functools
from typing import Any

import numpy as np
import pytest
from central_runs import accuracy, digits, initial, lenet, load, on, paired, run
from learned_world import Runs, assert_same_function, experiment, runs
from test_recovered import channels_of, teacher

from fedprune import training
from fedprune.data.loading import in_order
from fedprune.federated.rounds.model import State
from fedprune.methods import MethodError, build
from fedprune.methods.building import prunable_of
from fedprune.methods.channels import made_of, rows, scaled, unpushed
from fedprune.methods.dense.fedavg import fedavg
from fedprune.training.gradients import gradients
from fedprune.types import Method, Model, Params, Tensor

STOP = 6


@functools.cache
def faded(seed: int) -> Runs:
    return runs(experiment({"name": "hesso", "stop": STOP}, rounds=STOP, seed=seed))


def norms(it: Runs, state: State) -> tuple[Tensor, Tensor]:
    """‖x‖ of the channels that were chosen before training, and of the others."""
    setting, free = it.setting, unpushed(it.after(0).model())
    groups, _ = prunable_of(setting.experiment, setting.model(), setting.schema.input_shape).channels()
    sizes = {n: np.linalg.norm(rows(each, state.params), axis=1) for n, each in made_of(groups).items()}
    gone, kept = ([size[free[n] == stays] for n, size in sizes.items()] for stays in (False, True))
    return np.concatenate(gone), np.concatenate(kept)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exactly_k_channels_fade_along_a_line_and_go_without_a_trace(seed: int) -> None:
    """Their mean size is 0.86, 0.74, 0.61, 0.45, 0.25 of what it was: up to 0.12 above the line, by training."""
    it = faded(seed)
    course = np.array([norms(it, it.after(round))[0].mean() for round in range(STOP + 1)])
    assert course / course[0] == pytest.approx(1 - np.arange(STOP + 1) / STOP, abs=0.15)
    gone, kept = norms(it, it.after(STOP))
    assert len(gone) == len(kept) == 22
    assert not gone.any()
    assert kept.all()
    assert_same_function(it.setting, it.after(STOP), it.after(STOP))


# a perceptron on digits, whose 100 units are chosen by what devices would answer


def perceptron(**given: Any) -> Method:
    return build({"name": "hesso", **given}, {}, 0, channels=channels_of(lenet(), (1, 8, 8)))


def chosen(method: Method, params: Params) -> Model:
    """The model after round 0."""
    dataset, train, _ = digits()
    net, model, found = lenet(), method.start(params), dict[str, Params]()
    while new := {name: ask for name, ask in method.asks(model, 0, found).items() if name not in found}:
        for name, ask in new.items():
            plain = ask.kind == "gradients"
            by = {} if plain else ask.args.scales
            load(net, {n: (value * by.get(n, 1)).astype(np.float32) for n, value in params.items()})
            layers = ask.args if plain else ask.args.layers
            found[name] = gradients(net, in_order(dataset, train, 500), layers)
    return method.act(model, found, 0)


def test_its_defaults_do_for_another_net_and_task() -> None:
    """Half of the units, three seeds: as accurate as all of them trained as long, 0.7 points better in the mean."""
    lost = []
    for seed in range(3):
        method, params = perceptron(stop=STOP), initial(seed)
        trained = on(Model(params), range(1, 4), seed)
        model = chosen(method, trained.params)
        for round in range(1, 11):
            model = method.act(on(model, range(round, round + 1), seed), {}, round)
        units = np.concatenate([model.params[n].any(1) for n in ("1.weight", "3.weight")])
        assert np.count_nonzero(units) == 50
        lost.append(accuracy(run(fedavg({}), trained.params, 10, seed)[-1]) - accuracy(model))
    assert np.mean(lost) < 0.02


def test_cric_spares_what_looks_small_and_matters() -> None:
    """The ten units of most effect, a fifth of their size and read five times as much: the same function.

    Of five seeds CRIC drops 9 of them where one look drops 20; the loss after removal is 0.20 nats and not 0.35.
    """
    groups, _ = channels_of(lenet(), (1, 8, 8))()
    made, dropped, losses = made_of(groups), {0: 0, 10: 0}, dict[int, list[float]]({0: [], 10: []})
    for seed in range(5):
        params = teacher(seed)
        alone = [loss({**params, **scaled(made["1"], params, np.arange(75) == unit, 0.0)}) for unit in range(75)]
        essential = np.argsort(alone)[-10:]
        small = {**params, **scaled(made["1"], params, np.isin(np.arange(75), essential), 0.2)}
        small["3.weight"] = params["3.weight"] * np.where(np.isin(np.arange(75), essential), 5, 1).astype(np.float32)
        for cycles in dropped:
            model = chosen(perceptron(keep=0.6, cycles=cycles), small)
            left = dict(small)
            for name, free in unpushed(model).items():
                left |= scaled(made[name], left, ~free, 0.0)
            dropped[cycles] += np.count_nonzero(~unpushed(model)["1"][essential])
            losses[cycles].append(loss(left))
    mean, half = paired([one - several for one, several in zip(*losses.values(), strict=True)])
    assert mean > half
    assert dropped[10] < dropped[0] / 2


def loss(params: Params) -> float:
    """Of the test, in nats."""
    dataset, _, test = digits()
    net = lenet()
    load(net, params)
    return training.evaluate(net, in_order(dataset, test, 500)).loss / len(test)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": 0.0}, r"keep 0\.0 is outside \(0, 1\]"),
        ({"begin": 10}, r"begin 10 is above 9, the round before stop"),
        ({"periods": 11}, r"periods 11 is above 10, the rounds from begin to stop"),
        ({"cycles": -1}, r"cycles -1 is below 0"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^method: {message}$"):
        perceptron(**given)
