"""Devices as they are called: numbers where one data set is dealt to them, names where each has data of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable

from fedprune.types import DeviceId
from fedprune.wire.payload import Payload, count

_LONGEST = 200


def place(device: DeviceId) -> tuple[int, int, str]:
    """What devices are sorted by: numbers by size, names by their letters."""
    return (0, device, "") if isinstance(device, int) else (1, 0, device)


def ordered(devices: Iterable[DeviceId]) -> list[DeviceId]:
    """Devices by their ``place``."""
    return sorted(devices, key=place)


def written(device: DeviceId) -> str:
    """A device as a text that tells a number from a name."""
    return json.dumps(device, ensure_ascii=False)


def device_of(text: str) -> DeviceId:
    """The device of ``written``. ValueError for any other text."""
    device = json.loads(text)
    if isinstance(device, bool) or not isinstance(device, int | str):
        raise ValueError(f"{text[:40]!r} is no device")
    return device


def said(payload: Payload) -> DeviceId | None:
    """Which device a reply says that it is from; None where it says nothing. ValueError where it says nonsense."""
    device = payload.values.get("device")
    if device is None:
        return None
    if not isinstance(device, str):
        return count(payload, "device")
    if not 0 < len(device) <= _LONGEST or not device.isprintable() or "/" in device:
        raise ValueError(f"device is {device!r:.60}, expected a name of printable letters without '/'")
    return device
