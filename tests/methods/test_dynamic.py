"""GMP, SET, RigL and GraNet: what real rounds do to masks and weights; hand-worked masks are in tests/golden."""

import itertools
import math
from collections.abc import Iterator, Mapping

import battery
import numpy as np
import pytest

from fedprune.federated.rounds.model import State
from fedprune.pruning import masks
from fedprune.pruning.schedules import cubic
from fedprune.pruning.topk import kept_count

ROUNDS, STOP = 6, 5
SIZES = {"1.0.weight": 540, "2.0.weight": 1080, "5.weight": 768}


def rounds(name: str, **given: float) -> Iterator[tuple[int, State, State]]:
    """(round, the state when it was trained, the state when the method has acted) of a run."""
    own = {} if name == "gmp" else {"fraction": 0.5 if name == "granet" else 0.3}
    it = battery.ran(name, {"density": 0.1, "stop": STOP, **own, **given}, rounds=ROUNDS)
    assert {layer: math.prod(shape) for layer, shape in it.layers.items()} == SIZES
    trained = {state.round + 1: state for state in it.states if "train" in state.done and state.round < ROUNDS}
    acted = {state.round: state for state in reversed(it.states)}
    for round in range(1, ROUNDS + 1):
        yield round, trained[round], acted[round]


def swapped(before: State, after: State) -> Mapping[str, int]:
    """How many weights of each layer were revived; each of them begins at 0."""
    grown = {layer: after.masks[layer] & ~before.masks[layer] for layer in after.masks}
    assert not any(after.params[layer][new].any() for layer, new in grown.items())
    return {layer: int(new.sum()) for layer, new in grown.items()}


def counts(state: State) -> dict[str, int]:
    return {layer: int(mask.sum()) for layer, mask in state.masks.items()}


def test_gmp_follows_its_cubic_in_every_layer_and_revives_nothing() -> None:
    for round, before, after in rounds("gmp", initial=1.0):
        density = 0.1 + 0.9 * (1 - min(round, STOP) / STOP) ** 3
        assert cubic(1.0, 0.1, end=STOP)(round) == pytest.approx(density, abs=1e-12)
        assert counts(after) == {layer: kept_count(density, size) for layer, size in SIZES.items()}
        assert masks.nested(after.masks, before.masks)
        for layer, mask in after.masks.items():
            dropped = before.masks[layer] & ~mask
            weight = np.abs(before.params[layer])
            assert not dropped.any() or weight[dropped].max() <= weight[mask].min()


@pytest.mark.parametrize("initial", [1.0, 0.5])
def test_granet_follows_the_cubic_over_all_layers_and_regenerates_without_changing_their_number(initial: float) -> None:
    most = 0
    for round, before, after in rounds("granet", initial=initial):
        density = 0.1 + (initial - 0.1) * (1 - min(round, STOP) / STOP) ** 3
        assert masks.kept(after.masks) == kept_count(density, sum(SIZES.values()))
        weights = np.concatenate([np.abs(before.params[layer]).ravel() for layer in SIZES])
        alive = np.concatenate([before.masks[layer].ravel() for layer in SIZES])
        threshold = np.sort(weights[alive])[::-1][masks.kept(after.masks) - 1]
        pruned = {layer: before.masks[layer] & (np.abs(before.params[layer]) >= threshold) for layer in SIZES}
        grown = {layer: int((after.masks[layer] & ~pruned[layer]).sum()) for layer in SIZES}
        fraction = 0.25 * (1 + math.cos(math.pi * min(round, STOP) / STOP))
        for layer, mask in pruned.items():
            kept = int(mask.sum())
            assert int(after.masks[layer].sum()) == kept  # regeneration leaves every layer's number
            assert grown[layer] == min(int(fraction * kept * (1 + 1e-9)), SIZES[layer] - kept)
            revived = after.masks[layer] & ~pruned[layer]
            assert not after.params[layer][revived].any()
        most = max(most, sum(grown.values()))
    assert most > 50
    assert swapped(before, after) == dict.fromkeys(SIZES, 0)  # none after the stop


def test_rigl_swaps_by_its_cosine_and_keeps_every_layers_density() -> None:
    for round, before, after in rounds("rigl"):
        assert counts(after) == counts(before)
        fraction = 0.15 * (1 + math.cos(math.pi * round / STOP)) if round <= STOP else 0.0
        assert swapped(before, after) == {layer: int(fraction * kept) for layer, kept in counts(before).items()}
        for layer, mask in before.masks.items():
            dropped, weight = mask & ~after.masks[layer], np.abs(before.params[layer])
            assert not dropped.any() or weight[dropped].max() <= weight[mask & after.masks[layer]].min()


def test_rigl_grows_the_largest_gradients_that_devices_found() -> None:
    it = battery.ran("rigl", {"density": 0.1, "stop": STOP, "fraction": 0.3}, rounds=ROUNDS)
    told = [(state, after) for state, after in zip(it.states, it.states[1:], strict=False) if state.found]
    assert not told  # an answer goes straight into the act of its round
    method, state = it.setting.method, it.states[0]
    rng = np.random.default_rng(0)
    grads = {layer: rng.normal(size=mask.shape) for layer, mask in state.masks.items()}
    after = method.act(state.model(), {"grad": grads}, 1)
    for layer, mask in state.masks.items():
        grown, left = after.masks[layer] & ~mask, ~after.masks[layer] & ~mask
        assert np.abs(grads[layer][grown]).min() >= np.abs(grads[layer][left]).max()


def test_set_swaps_a_fixed_fraction_at_random_until_its_stop() -> None:
    chosen = []
    for round, before, after in rounds("set"):
        assert counts(after) == counts(before)
        some = {layer: int(0.3 * kept) if round <= STOP else 0 for layer, kept in counts(before).items()}
        assert swapped(before, after) == some
        chosen.append(after.masks["2.0.weight"] & ~before.masks["2.0.weight"])
    # other weights in every round
    assert all((one & other).sum() < 0.5 * one.sum() for one, other in itertools.pairwise(chosen[:STOP]))
