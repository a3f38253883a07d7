"""Which methods an experiment's fleet can train within its budgets, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import Parameter
from math import sqrt
from typing import Any, NamedTuple

from msgspec.structs import replace

from fedprune import measures
from fedprune.experiment import Experiment, ExperimentError
from fedprune.methods import OF_THE_MODEL, catalogue, parameters, size_parameter
from fedprune.methods.asking import asked_kinds
from fedprune.runs.setting import Setting, prepare


class Advice(NamedTuple):
    """What a method would come to in a fleet."""

    method: str
    why_not: str
    """In one line; empty where the fleet can train it."""
    sizes: Mapping[str, float] = {}
    """Tier -> the density, or fraction of channels, that its budgets allow."""
    peaks: Mapping[str, int] = {}
    """Tier that trains -> predicted bytes of a device's process at its fullest."""
    native: bool = False
    """Whether devices train without torch."""
    exact: tuple[str, ...] = ()
    """Kinds of evidence that leave a device exactly as they are, without noise."""


def recommended(
    experiment: Experiment, source: str, data_dir: str | None = None, say: Callable[[str], None] = lambda name: None,
    names: Iterable[str] = (),
) -> Iterator[Advice]:  # fmt: skip
    """Plan a fleet's experiment with each method in place of its own; ``say`` hears which is next.

    They are those of the catalogue, or those that ``names`` says.

    A method takes those of the experiment's keys that it has, and one that narrows the model a width that keeps about
    as many weights. ExperimentError where the experiment cannot be planned with its own.
    """
    prepare(experiment, source, data_dir)
    for name in names or catalogue():
        say(name)
        try:
            asked = _with(experiment, name)
            yield _planned(name, prepare(asked, source, data_dir))
        except ExperimentError as error:
            yield Advice(name, str(error).removeprefix(f"{source}: "))


def _with(experiment: Experiment, name: str) -> Experiment:
    takes, sized = parameters(name), size_parameter(name)
    table: dict[str, Any] = {"name": name, **{k: v for k, v in experiment.method.items() if k in takes}}
    fleet = experiment.fleet
    if sized is not None and sized[0] == "width":
        fleet = {tier: replace(each, density=sqrt(each.density)) for tier, each in fleet.items()}
    if sized is not None:
        table.setdefault(sized[0], max(each.density for each in fleet.values()))
    if missing := [key for key, each in takes.items() if key not in table and _required(each)]:
        raise ExperimentError(f"method.{missing[0]}: missing; {name} cannot do without")
    return replace(experiment, method=table, fleet=fleet)


def _required(parameter: Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.name not in OF_THE_MODEL


def _planned(name: str, setting: Setting) -> Advice:
    plan = setting.plan
    assert plan is not None
    kinds = asked_kinds(setting.method, setting.zeros(), setting.experiment.rounds)
    return Advice(
        name,
        "",
        {tier: each.size for tier, each in plan.tiers.items()},
        {tier: each.memory.total for tier, each in plan.tiers.items() if each.memory is not None},
        plan.costs.native,
        tuple(kind for kind in dict.fromkeys(kinds) if not measures.find(kind).private),
    )
