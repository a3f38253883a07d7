"""PDP's claims: masks move early and settle late, in every form, and what is soft while it learns ends better."""

import itertools
from typing import Any

import battery
import numpy as np
import pytest
from central_runs import LAYERS, accuracy, initial, on, paired, run

from fedprune.methods import MethodError, build
from fedprune.pruning import masks
from fedprune.types import Model

FORMS: dict[str, dict[str, Any]] = {
    "weight": {"density": 0.1},
    "2:4": {"density": 0.5, "of": 4},
    "1:8": {"density": 0.125, "of": 8},
    "rows": {"density": 0.5, "rows": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_move_early_and_settle_late(form: str) -> None:
    """Flips after each epoch, in all: 230, 90, … 12, 10 of 692 weights; of 2:4 502, 258, … 8, 12 of 3,480."""
    method = build({"name": "pdp", **FORMS[form], "ramp": 1, "stop": 12}, LAYERS, 0)
    model, hard = method.start(initial(0)), list[Model]()
    for round in range(1, 13):
        model = on(model, range(round, round + 1), 0, method.local)
        hard.append(method.act(model, {}, 12))
    flips = [
        sum(int(np.count_nonzero(a.masks[name] != b.masks[name])) for name in LAYERS)
        for a, b in itertools.pairwise(hard)
    ]
    assert sum(flips[:4]) > 1.5 * sum(flips[-4:])
    densities = masks.densities(hard[-1].masks)
    assert densities == pytest.approx(dict.fromkeys(LAYERS, FORMS[form]["density"]), abs=0.05)


def test_soft_masks_beat_hard_ones() -> None:
    """3 % after 12 epochs, ten seeds: PDP 67.3 %, GMP as long 67.4 %, pruned after one epoch 56.1 %.

    Paired that is 0 ± 6 and 11 ± 7 points, on an AMD processor. Five seeds on an Intel one gave 5 ± 6 and 13 ± 11.
    """
    tables = (
        {"name": "pdp", "density": 0.03, "stop": 10},
        {"name": "gmp", "density": 0.03, "stop": 10},
        {"name": "gmp", "density": 0.03, "stop": 1},
    )
    found = [
        [accuracy(run(build(table, LAYERS, 0), initial(seed), 12, seed)[-1]) for table in tables] for seed in range(10)
    ]
    mean, half = paired([soft - once for soft, _, once in found])
    assert mean > half
    assert np.mean([soft - gradual for soft, gradual, _ in found]) > -0.05  # no difference is shown


@pytest.mark.parametrize("law", ["fits", "zeros", "seeds", "resumes", "roads", "pooled", "unanswered"])
@pytest.mark.parametrize("form", ["2:4", "rows"])
def test_other_forms_keep_the_laws(law: str, form: str) -> None:
    battery.hold(law, "pdp", **FORMS[form])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"density": 0.3, "of": 4}, "density 0.3 of 4 is no N:M, or rows are to go besides"),
        ({"density": 0.5, "of": 4, "rows": True}, "density 0.5 of 4 is no N:M, or rows are to go besides"),
        ({"density": 0.5, "temperature": 0.0}, r"temperature 0.0 is not above 0, or ramp 5 not from 1 to stop 10"),
        ({"density": 0.5, "ramp": 9, "stop": 8}, r"temperature 0.25 is not above 0, or ramp 9 not from 1 to stop 8"),
    ],
)
def test_what_makes_no_mask_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^method: {message}$"):
        build({"name": "pdp", **given}, LAYERS, 0)
