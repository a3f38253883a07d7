"""What devices hold where one data set is dealt to them: their examples, of which a setting knows the counts alone."""

import numpy as np

from fedprune.data import Federation
from fedprune.data.loading import federation
from fedprune.federated.rounds.device import Device
from fedprune.runs.setting import Setting
from fedprune.types import Tensor


def dealt(setting: Setting) -> Federation:
    """Who holds what."""
    return federation(setting.experiment)


def devices(setting: Setting) -> tuple[Device, ...]:
    """Every device, with its examples, in order."""
    parts = enumerate(dealt(setting).devices)
    return tuple(Device(index, setting.experiment, setting.schema, own) for index, own in parts)


def test_set(setting: Setting) -> tuple[Tensor, Tensor]:
    """(normalised inputs, labels) of every device's test part, in the order of devices."""
    parts = [device.test for device in dealt(setting).devices]
    inputs = setting.schema.normalise(np.concatenate([part.inputs for part in parts]))
    return inputs, np.concatenate([part.labels for part in parts])
