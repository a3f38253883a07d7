"""Whatever a net draws, the same model bit for bit: by one worker, by two, stopped and gone on with, over Ray."""

import functools
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import drawing_nets
import numpy as np
import pytest
import tiny_world
import torch
from fleets import assert_same, drive, fleet_of

from fedprune.federated.link import engines
from fedprune.federated.rounds.model import read
from fedprune.models import draws
from fedprune.runs.folder import RunFolder
from fedprune.runs.setting import prepare

KINDS = [*drawing_nets.CHANGES, "everything"]
IN_ONE = ("dropout", "by_numpy", "by_python", "in_evaluation", "functional", "recurrent")  # enough to tell, and quicker


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics without what the clock says."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def experiment(kind: str, **changes: Any) -> Any:
    training = {"batch": 8, "grow_batch": 16, "quantise_last": 1}
    return tiny_world.experiment(**{"model": f"drawing_nets:{kind}", "training": training, "rounds": 2, **changes})


@pytest.fixture(autouse=True)
def _elsewhere(request: pytest.FixtureRequest) -> Iterator[None]:
    """The process's generators are somewhere else in each test, as in each process."""
    before = draws.state()
    draws.begin(hash(request.node.name) % 2**64)
    yield
    draws.restore(before)


@pytest.fixture(scope="module")
def ran(in_tmp: Callable[..., Any]) -> Callable[[str], Any]:
    """Each kind, run in one go in this process."""
    return functools.cache(lambda kind: in_tmp(experiment(kind)))


def test_nets_draw_what_they_should(ran: Callable[[str], Any]) -> None:
    """Else the laws below would say nothing: no two kinds, and no two seeds, end in the same model."""
    found = {kind: ran(kind).state.params for kind in KINDS}
    last = {kind: next(v for name, v in params.items() if name.endswith("5.bias")) for kind, params in found.items()}
    assert len({value.tobytes() for value in last.values()}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_in_the_middle_where_two_workers_were_at_it_and_gone_on_with_by_one(
    ran: Callable[[str], Any], go: Callable[..., Any], kind: str
) -> None:
    def stop(row: dict[str, Any]) -> None:
        if (row.get("round"), row.get("phase")) == (1, "train"):
            raise KeyboardInterrupt

    whole = ran(kind)
    with pytest.raises(KeyboardInterrupt):
        go(experiment(kind), progress=stop, workers=1 if kind in IN_ONE else 2)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    again = go(experiment(kind), resume=True)
    assert_same(whole.state, again.state)
    assert timeless(whole.rows) == timeless(again.rows)


def test_flowers_own_simulation_gives_the_model_of_the_local_grid(ran: Callable[[str], Any], tmp_path: Path) -> None:
    """The slow one: Ray takes some 15 s to start."""
    pytest.importorskip("ray")
    setting, folder = prepare(experiment("everything"), "test"), RunFolder(tmp_path / "ray")
    folder.begin(setting.experiment)
    serve = functools.partial(drive, setting=setting, folder=folder, state=None, progress=lambda row: None)
    engines.ray(4, None, serve)
    whole = ran("everything")
    assert_same(whole.state, read(folder.checkpoint))
    assert timeless(whole.rows) == timeless(folder.rows())


def test_heartbeats_of_flower_do_not_move_what_a_net_draws(
    ran: Callable[[str], Any], in_tmp: Callable[..., Any]
) -> None:
    from flwr.supercore import heartbeat

    over = threading.Event()

    def beat() -> None:
        while not over.is_set():
            heartbeat.random.uniform(0.7, 0.9)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        assert_same(ran("everything").state, in_tmp(experiment("everything")).state)
    finally:
        over.set()
        beating.join()


@pytest.mark.parametrize("method", ["fedtiny", "fjord"])
def test_tiers_with_smaller_models_inside(in_tmp: Callable[..., Any], method: str) -> None:
    asked = fleet_of(method, rounds=1, model="drawing_nets:exportable", training={"quantise_last": 1})
    one, two = in_tmp(asked), in_tmp(asked, workers=2)
    assert not any(row.get("faults") for row in one.rows)
    assert_same(one.state, two.state)


def test_what_the_process_draws_is_not_moved(in_tmp: Callable[..., Any]) -> None:
    draws.begin(7)
    before = draws.state()
    in_tmp(experiment("everything", rounds=1))
    assert draws.state() == before


def test_noise_of_privacy_is_of_no_seed_where_the_net_draws(in_tmp: Callable[..., Any]) -> None:
    private = {"method": {"name": "magnitude", "density": 0.2}, "privacy": {"epsilon": 0.9}, "rounds": 1}
    states = []
    for _ in range(2):
        draws.begin(7)  # as a net's module may
        states.append(in_tmp(experiment("everything", **private)).state.params)
    plain = in_tmp(experiment("everything", **private | {"privacy": {}})).state.params
    for name in (name for name in plain if name.endswith("conv.weight") or name.endswith("5.bias")):
        assert not np.array_equal(states[0][name], states[1][name])
        assert not np.array_equal(states[0][name], plain[name])
