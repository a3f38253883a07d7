"""What an experiment asks of one holder of all data: no tiers, and no noise for anybody to hide behind."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from fedprune.data.loading import all_parts
from fedprune.experiment import Experiment, Privacy
from fedprune.federated.rounds.device import Device
from fedprune.federated.rounds.here import Here
from fedprune.methods import size_parameter
from fedprune.runs.setting import Setting, prepare


def central(
    experiment: Experiment, source: str, data_dir: str | None = None, say: Callable[[str], None] = lambda text: None
) -> Experiment:
    """The experiment as one holder of all devices' examples trains it; ``say`` is told what of it is left out.

    Of a fleet it is the largest part that any tier trains, whose plan says how large. Privacy is left out: it protects
    a device's examples from whoever gets its answers, and here nothing is answered. ExperimentError as for `prepare`.
    """
    if experiment.privacy.epsilon:
        say("privacy: left out, without noise: what one holder of all data computes stays with it")
        experiment = replace(experiment, privacy=Privacy())
    if experiment.fleet:
        plan = prepare(experiment, source, data_dir).plan
        assert plan is not None
        largest = max((tier for tier in plan.tiers.values() if tier.job is not None), key=lambda tier: tier.size)
        sized_by = size_parameter(experiment.method["name"])
        assert sized_by is not None
        size = f"{sized_by[0]} {largest.size:g}"
        say(f"fleet: left out; one holder trains the largest part, that of {largest.tier}: {size}")
        experiment = replace(experiment, fleet={}, method={**experiment.method, sized_by[0]: largest.size})
    return replace(experiment, data=replace(experiment.data, central=True))


def here(setting: Setting, data_dir: str | None = None) -> Here:
    """The holder, for rounds to ask."""
    return Here(Device(0, setting.experiment, setting.schema, all_parts(setting.experiment, data_dir)), setting.more())
