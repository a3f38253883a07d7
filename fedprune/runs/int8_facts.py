"""What a result says of its int8 file beside torch: how it was calibrated, what it loses, and a warning of much."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from fedprune.runs.forms import Check, Forms
from fedprune.tasks import ACCURACY, Metric

_MOST = 0.01  # a point of what is told in percent, a hundredth of another metric
_NOISIEST = 3


def int8_facts(forms: Forms, checked: Check) -> dict[str, Any]:
    """``int8_loss``, ``warnings``, ``calibration`` and ``signal_to_noise_db`` of a result.json and of a tier in it."""
    return {
        "int8_loss": checked.int8_loss,
        "warnings": warnings(checked.int8_loss, forms.noise_db, checked.task.metric, checked.value),
        "calibration": forms.calibration,
        "signal_to_noise_db": {**forms.noise_db},
    }


def warnings(
    int8_loss: float | None, noise_db: Mapping[str, float], metric: Metric = ACCURACY, value: float | None = None
) -> list[str]:
    """A line where int8 costs more than a point, with the layers that rounding disturbs most; none where it does not.

    Of a ``metric`` that is no share: more than a hundredth of its ``value`` in torch.

    >>> warnings(0.046, {"5.dw.0": 14.8, "fc": 30.0})
    ['int8 loses 4.6 points of accuracy on the test examples; noisiest layers: 5.dw.0 (14.8 dB), fc (30 dB)']
    >>> warnings(0.009, {})
    []
    >>> warnings(0.5, {}, Metric("mean absolute error", higher=False), 20.0)
    ['int8 makes the mean absolute error worse by 0.5, from 20, on the test examples']
    """
    # counts of examples, divided: a loss of a point in 0.33 - 0.32 is a little more
    most = _MOST if metric.unit == "%" else _MOST * abs(value or 0)
    if int8_loss is None or int8_loss <= most + 1e-9:
        return []
    worst = ", ".join(f"{layer} ({value:g} dB)" for layer, value in islice(noise_db.items(), _NOISIEST))
    said = f"int8 loses {100 * int8_loss:.1f} points of {metric.name} on the test examples"
    if metric.unit != "%":
        by, start = metric.text(int8_loss), metric.text(value)
        said = f"int8 makes the {metric.name} worse by {by}, from {start}, on the test examples"
    return [f"{said}; noisiest layers: {worst}" if worst else said]
