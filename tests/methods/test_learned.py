"""What the papers of the learned methods claim: MaskSparsity, OTOv2 (DHSPG), lottery jackpots, over a small fleet."""

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dealt
import learned_world
import msgspec
import numpy as np
import pytest
import torch
from flwr.app import Message
from learned_world import Runs, assert_same_function, experiment, runs

from fedprune import wire
from fedprune.experiment import Experiment
from fedprune.federated.link.local_grid import LocalGrid
from fedprune.federated.link.records import from_records
from fedprune.federated.rounds.model import State, read, save
from fedprune.graph import width
from fedprune.methods import MethodError, build
from fedprune.methods.building import prunable_of
from fedprune.methods.channels import made_of, rows
from fedprune.pruning import masks as _masks
from fedprune.pruning.parts import statistics
from fedprune.runs.pretraining import pretrain
from fedprune.runs.setting import prepare
from fedprune.training.losses import plain_loss
from fedprune.training.net import Net
from fedprune.types import Now, Sgd, Tensor

STOP, ROUNDS = 6, 7


@functools.cache
def pretrained(seed: int, epochs: int) -> State:
    asked = experiment({"name": "fedavg"}, seed=seed)
    more = msgspec.structs.replace(asked.pretraining, epochs=epochs)
    return pretrain(prepare(msgspec.structs.replace(asked, pretraining=more), "test"))


def channels_of(asked: Experiment) -> Any:
    setting = prepare(asked, "test")
    return prunable_of(asked, setting.model(), setting.schema.input_shape)


# MaskSparsity


@functools.cache
def sparse(seed: int, penalty: float, choose: int) -> Runs:
    """A run of half of the channels; of none of them where nothing is penalised."""
    method = {"name": "mask_sparsity", "penalty": penalty, "choose": choose, "stop": STOP}
    asked = method if penalty else {"name": "fedavg"}
    return runs(experiment(asked, rounds=ROUNDS, seed=seed, final_learning_rate=0.001), pretrained(seed, 15))


def gammas(state: State, like: State, kept: bool) -> Tensor:
    """|γ| of the channels that ``like`` keeps, or has removed."""
    found = {name: mask for name, mask in like.parts["narrow"].masks.items() if name.endswith(".1.weight")}
    return np.concatenate([np.abs(state.params[name][mask == kept]) for name, mask in found.items()])


SEEDS = (0, 1, 2)


def test_masked_scales_vanish_and_kept_ones_stay_as_without_a_penalty() -> None:
    for seed in SEEDS:
        run, plain, everywhere = sparse(seed, 0.2, 0), sparse(seed, 0.0, 0), sparse(seed, 0.1, STOP)
        before, removed = run.after(STOP, "train"), run.after(STOP)
        off = gammas(before, removed, False)
        assert len(off) == len(gammas(before, removed, True)) == 22
        assert np.mean(off < 0.01) > 0.9
        assert off.max() < 0.02
        kept, same = gammas(before, removed, True), gammas(plain.after(STOP, "train"), removed, True)
        assert kept.mean() == pytest.approx(same.mean(), rel=0.03)
        # the global penalty takes most of the scales that stay as well
        assert gammas(everywhere.after(STOP, "train"), everywhere.after(STOP), True).mean() < 0.3 * same.mean()


def test_removal_costs_far_less_than_after_a_global_penalty() -> None:
    """Both had three penalties to choose from, 0.05, 0.1 and 0.2; each has the one that leaves it the most."""
    mine, theirs = [], []
    for seed in SEEDS:
        dense = sparse(seed, 0.0, 0).accuracy(sparse(seed, 0.0, 0).after(STOP))
        mine.append(dense - sparse(seed, 0.2, 0).accuracy(sparse(seed, 0.2, 0).after(STOP)))
        theirs.append(dense - sparse(seed, 0.1, STOP).accuracy(sparse(seed, 0.1, STOP).after(STOP)))
    assert np.mean(mine) < 0.6 * np.mean(theirs)


def test_the_penalty_is_on_masked_scales_alone() -> None:
    asked = experiment({"name": "mask_sparsity"})
    what = channels_of(asked)
    method = build({"name": "mask_sparsity", "penalty": 0.25}, what.layers, 0, channels=what.channels)
    setting = prepare(asked, "test")
    model = method.act(method.start(pretrained(0, 15).params), {}, 0)
    net = setting.model(model.params)
    params = dict(net.named_parameters())
    memory = {name: torch.from_numpy(value) for name, value in model.memory.items()}
    inputs, labels = (torch.from_numpy(value[:8]) for value in dealt.test_set(setting))
    assert method.local.loss is not None
    pushed, plain = (
        torch.autograd.grad(loss(Net(net), params, inputs, labels, memory, Now(1, 0, Sgd(0.1))), list(params.values()))
        for loss in (method.local.loss, plain_loss)
    )
    difference = {name: one - other for name, one, other in zip(params, pushed, plain, strict=True)}
    assert sum(int((memory[name] > 0).sum()) for name in memory) == 22
    for name, value in difference.items():
        group = f"push/{name.removesuffix('.1.weight')}.0"
        expected = memory[group] * params[name].sign() if group in memory else torch.zeros_like(value)
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def test_devices_hold_a_narrower_model_once_channels_are_removed() -> None:
    run = sparse(0, 0.2, 0)
    down = [phase.row["bytes_down"] for phase in run.phases if phase.name == "train"]
    assert down[-1] < 0.5 * min(down[:-1])
    narrow = width.narrow(run.after(STOP).params, run.after(STOP).parts["narrow"].masks)
    assert sum(len(value) for name, value in narrow.items() if name.endswith(".1.weight")) == 22


# OTOv2


@functools.cache
def zeroing(seed: int) -> Runs:
    method = {"name": "dhspg", "penalty": 0.6, "stop": STOP}
    return runs(experiment(method, rounds=ROUNDS, seed=seed), pretrained(seed, 15))


def norms(state: State, like: State, pushed: bool) -> Tensor:
    """‖x‖ of the channels that are pushed in ``like``, or not."""
    groups, _ = channels_of(experiment({"name": "dhspg"})).channels()
    each = {name: np.linalg.norm(rows(members, state.params), axis=1) for name, members in made_of(groups).items()}
    return np.concatenate([norm[(like.memory[f"push/{name}"] > 0) == pushed] for name, norm in each.items()])


@pytest.mark.parametrize("seed", SEEDS)
def test_all_k_channels_are_zero_when_they_are_removed_and_the_model_is_the_same(seed: int) -> None:
    run = zeroing(seed)
    chosen, before, after = run.after(0), run.after(STOP, "train"), run.after(STOP)
    assert len(norms(before, chosen, True)) == 22
    assert not norms(before, chosen, True).any()
    assert norms(before, chosen, False).all()
    kept = after.parts["narrow"].masks
    assert sum(int(kept[name].sum()) for name in kept if name.endswith(".1.weight")) == 22
    assert_same_function(run.setting, before, after)


def test_norms_of_chosen_channels_shrink_round_by_round() -> None:
    for seed in SEEDS:
        run = zeroing(seed)
        chosen = run.after(0)
        course = [norms(run.after(round), chosen, True) for round in range(STOP)]
        assert all((after <= before + 1e-6).all() for before, after in itertools.pairwise(course))
        free = [norms(run.after(round), chosen, False).mean() for round in (0, STOP - 1)]
        assert free[1] > 0.8 * free[0]


def test_without_gradients_nothing_is_chosen_and_they_are_asked_again() -> None:
    what = channels_of(experiment({"name": "dhspg"}))
    method = build({"name": "dhspg", "begin": 1, "stop": 3}, what.layers, 0, channels=what.channels)
    model = method.start(pretrained(0, 15).params)
    assert [bool(method.asks(model, round, {})) for round in range(5)] == [False, True, True, False, False]
    assert method.act(model, {"grad": {}}, 1) is model
    grads = {name: np.ones_like(model.params[name]) for name in method.asks(model, 1, {})["grad"].args}
    assert not method.asks(method.act(model, {"grad": grads}, 1), 2, {})


@pytest.mark.parametrize("run", [lambda: sparse(0, 0.2, 0), lambda: zeroing(0)])
def test_a_run_goes_on_from_a_file_to_the_same_model(run: Any, tmp_path: Path) -> None:
    whole = run()
    for round in (STOP - 1, STOP):
        save(whole.after(round), tmp_path / "state")
        rest = runs(whole.setting.experiment, read(tmp_path / "state"))
        last, expected = rest.phases[-1].state, whole.phases[-1].state
        assert all(value.tobytes() == expected.params[name].tobytes() for name, value in last.params.items())
        assert _masks.equal(last.parts["narrow"].masks, expected.parts["narrow"].masks)


# lottery jackpots

JACKPOT = {"name": "lottery_jackpots", "density": 0.1, "stop": 5}


@functools.cache
def jackpot(seed: int) -> Runs:
    asked = experiment(JACKPOT, rounds=6, seed=seed, learning_rate=0.1, final_learning_rate=0.01)
    return runs(asked, pretrained(seed, 30))


def test_no_weight_moves_and_swaps_stay_below_their_cap() -> None:
    for seed in SEEDS:
        run, dense = jackpot(seed), pretrained(seed, 30).params
        moving = statistics(dense)
        for phase in run.phases:
            for name in dense.keys() - moving.keys():
                kept = phase.state.masks.get(name, np.ones(dense[name].shape, bool))
                assert np.array_equal(phase.state.params[name], np.where(kept, dense[name], 0))
        swapped = []
        for round in range(1, 7):
            one, other = run.after(round - 1).masks, run.after(round).masks
            assert _masks.kept(other) == _masks.kept(one)
            found = {name: np.count_nonzero(one[name] & ~other[name]) for name in one}
            cap = {name: int((1 - min(1, (round - 1) / 5)) ** 4 * mask.sum()) for name, mask in one.items()}
            assert all(found[name] <= cap[name] for name in found)
            swapped.append(sum(found.values()))
        assert swapped[0] > 50
        assert swapped[-1] == 0


def test_a_trained_mask_beats_magnitude_where_no_weight_is_trained() -> None:
    """Magnitude over all layers, and as many rounds for its batch norms, whose statistics follow the mask."""
    gains = []
    for seed in SEEDS:
        magnitude = {"name": "magnitude", "density": 0.1}
        still = experiment(magnitude, rounds=6, seed=seed, learning_rate=1e-9, final_learning_rate=1e-9)
        other = runs(still, pretrained(seed, 30))
        gains.append(jackpot(seed).accuracy(jackpot(seed).after(6)) - other.accuracy(other.after(6)))
    assert min(gains) > 0
    assert np.mean(gains) > 0.05


def test_votes_take_less_than_a_bit_a_weight_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[Message] = []
    send = LocalGrid.send_and_receive

    def recorded(self: LocalGrid, messages: Iterable[Message], **options: Any) -> Iterable[Message]:
        for reply in send(self, messages, **options):
            replies.append(reply)
            yield reply

    monkeypatch.setattr(learned_world.LocalGrid, "send_and_receive", recorded)
    # half of the weights: no code is shorter than a bit for each
    asked = experiment({**JACKPOT, "density": 0.5}, rounds=1, learning_rate=0.1)
    setting = runs(asked, pretrained(0, 30)).setting
    size = sum(int(np.prod(shape)) for shape in setting.layers.values())
    trained = [reply for reply in replies if reply.metadata.message_type == "train"]
    assert len(trained) == 3
    for reply in trained:
        payload = from_records(reply.content)
        votes = {name: value for name, value in payload.tensors.items() if name.startswith("own/")}
        assert list(votes) == [f"own/vote/{name}" for name in setting.layers]
        assert payload.tensors.keys() - votes.keys() == statistics(setting.zeros()).keys()
        names = sum(len(name) + 20 for name in votes)  # each with its shape and the length of its code
        sent = reply.content.array_records["fedprune.tensors"]["tensors"].data
        others = {name: value for name, value in payload.tensors.items() if name not in votes}
        assert len(sent) - len(wire.encode(others)) <= size / 8 + names


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "mask_sparsity", "keep": 0.0}, r"keep 0\.0 is outside \(0, 1\]"),
        ({"name": "mask_sparsity", "penalty": 0.0}, r"penalty 0\.0 is not above 0"),
        ({"name": "mask_sparsity", "choose": 11}, r".* choose 11 not from 0 to stop 10"),
        ({"name": "dhspg", "keep": 1.5}, r"keep 1\.5 is outside \(0, 1\]"),
        ({"name": "dhspg", "begin": 10}, r".* begin 10 not from 0 to before stop 10"),
        ({"name": "lottery_jackpots", "density": 2.0}, r"density 2\.0 is outside \(0, 1\]"),
        ({"name": "lottery_jackpots", "density": 0.5, "prior": 1.0}, r"prior 1\.0 is outside \[0, 1\)"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(table: dict[str, Any], message: str) -> None:
    what = channels_of(experiment({"name": "fedavg"}))
    with pytest.raises(MethodError, match=f"^method: {message}"):
        build(table, what.layers, 0, channels=what.channels)
