"""How often a device asks for work."""

import time

import pytest

from fedprune.deployment.device.supernode import Pace


def test_a_device_asks_often_after_work_and_then_as_seldom_as_flower(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    pace = Pace()
    for seconds in (3.0, 0.5, 0.1, *[3.0] * 14, 0.5, 3.0):
        pace.sleep(seconds)
    assert waited == [3.0, 0.1, 0.1, *[0.5] * 12, 3.0, 3.0, 0.1, 0.5]
