"""What devices are called where people read of them: a fleet's by name, a simulation's by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fedprune.deployment.fleet_folder import Fleet

_MOST = 10  # devices that a line names before it only counts them


class Names(NamedTuple):
    """Names of devices by what a line of metrics calls them, and of Flower's nodes. A device may be its own name."""

    devices: Mapping[int | str, str] = MappingProxyType({})
    nodes: Mapping[str, str] = MappingProxyType({})

    def of(self, device: int | str) -> str:
        """The name of a device, or "device 3"."""
        called = self.devices.get(device, device)
        return called if isinstance(called, str) and not called.isdecimal() else f"device {called}"

    def all_of(self, devices: Sequence[int | str]) -> str:
        """The names of several, "devices 0, 1", of which the first ten are said."""
        called = [self.of(device) for device in devices]
        if len(called) > 1 and all(each == f"device {device}" for each, device in zip(called, devices, strict=True)):
            called = [f"devices {devices[0]}", *map(str, devices[1:])]
        more = len(called) - _MOST
        return ", ".join(called[:_MOST]) + (f" and {more} more" if more > 0 else "")


NUMBERS = Names()


def of_fleet(fleet: Fleet) -> Names:
    """The names of a fleet's devices; none where a record is damaged, which whoever needs it says."""
    from fedprune.deployment.devices import enrolled
    from fedprune.deployment.fleet_folder import FleetError

    try:
        devices = enrolled(fleet)
    except FleetError:
        return Names()
    return Names(
        {device.partition: device.name for device in devices},
        {device.node: device.name for device in devices if device.node is not None},
    )
