"""What a run says of an int8 file that does worse than torch: in its result, card, report, live page and table."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_world

from fedprune.cli.main import main
from fedprune.export import litert
from fedprune.export.litert.calibration import RULES, Rule
from fedprune.runs import forms
from fedprune.runs.int8_facts import warnings
from fedprune.runs.live.picture import Seen, picture
from fedprune.runs.run import simulate


def told(examples: int, correct: int, ran: int, int8: int) -> dict[str, Any]:
    other = {"examples": examples, "correct": correct, "agree": correct, "why": ""}
    mine = {"examples": ran, "correct": int8, "agree": int8, "why": ""}
    files = {"litert_float": other, "litert_int8": mine, "tflm": other}
    return {"examples": examples, "correct": correct, "forms": files}


def test_the_loss_is_over_the_examples_that_both_ran_on() -> None:
    # the second device has no runtime: torch's 50 of 50 there are compared with nothing
    both = {0: told(100, 90, 100, 87), 1: told(50, 50, 0, 0)}
    assert forms.checked(both, None).int8_loss == pytest.approx(0.03)
    assert forms.checked({1: told(50, 50, 0, 0)}, None).int8_loss is None
    assert forms.checked({}, None).int8_loss is None
    assert forms.checked({0: told(100, 87, 100, 90)}, None).int8_loss == pytest.approx(-0.03)


def test_a_point_is_not_more_than_a_point() -> None:
    assert warnings(0.33 - 0.32, {}) == []
    assert warnings(None, {}) == []
    (said,) = warnings(0.0101, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})
    assert said.endswith("noisiest layers: a (1 dB), b (2 dB), c (3 dB)")


def test_a_run_whose_file_does_worse_says_so_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow: Rule = lambda values: (values.low / 20, values.high / 20)  # noqa: E731
    monkeypatch.setitem(RULES, "minmax", narrow)  # type: ignore[arg-type]
    experiment, run = tiny_world.experiment(rounds=1, export={"calibration": "minmax"}), tmp_path / "run"
    result = simulate(experiment, run, engine=tiny_world.HERE)
    assert result["int8_loss"] == pytest.approx(result["accuracy_float"] - result["accuracy_int8"])
    assert result["int8_loss"] > 0.01
    assert result["signal_to_noise_db"]
    (said,) = result["warnings"]
    assert said.startswith("int8 loses ")
    assert said in (run / "report.html").read_text()
    card = json.loads((run / "microcontroller" / "model_card.json").read_text())
    assert card["warnings"] == [said]
    page = (run / "microcontroller" / "model_card.md").read_text()
    assert "**Warning**" in page
    assert "## Signal to noise of each layer" in page
    assert said in picture(Seen(experiment, result=result), 0.0)["said"]
    for command in (["export", str(run), "--to", "litert"], ["inspect", str(run)]):
        monkeypatch.setattr("sys.argv", ["fedprune", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
        assert f"warning: {said}" in capsys.readouterr().out


def test_a_run_keeps_its_word_where_int8_does_as_well(tmp_path: Path) -> None:
    result = simulate(tiny_world.experiment(rounds=1), tmp_path / "run", engine=tiny_world.HERE)
    assert np.isfinite([*result["signal_to_noise_db"].values()]).all()
    assert (result["warnings"] == []) == (result["int8_loss"] <= 0.01)
    assert litert.quantisation((tmp_path / "run" / "model.tflite").read_bytes()).input.grid is not None
