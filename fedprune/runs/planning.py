"""A fleet's plan: for every tier the largest part of the model that its budgets hold, and how its devices train it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType
from typing import NamedTuple

from fedprune.budgets import Memory
from fedprune.budgets.plan import Need, densities, largest, widths
from fedprune.experiment import Experiment, ExperimentError, Tier
from fedprune.federated.rounds.jobs import Job, Room
from fedprune.federated.rounds.tiers import Tiers
from fedprune.methods import MethodError
from fedprune.runs.costs import Costs
from fedprune.types import DeviceId, Local, Method

_TEST_BATCHES = (250, 128, 64, 32, 16, 8)
_MARGIN = 1.05  # of predicted training memory: predictions of lean training were up to 5 % low


class TierPlan(NamedTuple):
    """What a tier will hold, and train, and why no more."""

    tier: str
    part: str
    """Name of its part: that of the first tier of the same size; empty where all tiers have one size."""
    size: float
    """Density, or the fraction of channels."""
    job: Job | None
    """None for a tier that trains nothing."""
    memory: Memory | None
    flash_bytes: int
    """Predicted, of the exported model."""
    sram_bytes: int
    macs: int
    """Multiply-adds of an inference with dense kernels."""
    sparse_macs: int
    """Those of kept weights alone."""
    stored_bytes: Mapping[str, int]
    """Encoding -> bytes of its int8 weights."""
    examples: int
    """That its largest device trains on in an epoch; 0 where it trains nothing."""
    bytes_down: int
    bytes_up: int
    binds: str
    """The budget that keeps it from a larger size, or ``density``: what was asked for."""


@dataclass(frozen=True, eq=False)
class FleetPlan:
    """The plan of a fleet."""

    tiers: Mapping[str, TierPlan]
    members: Mapping[DeviceId, str]
    """Device -> its tier; one that comes later is of the last that trains."""
    methods: Mapping[str, Method]
    """Part -> the method at its size, the largest first."""
    jobs: Mapping[str, Sequence[Job]]
    """Tier -> its job and what to fall back on, in less and less memory, as far as smaller parts."""
    tests: Mapping[str, Sequence[Job]]
    """Part -> testing it, in less and less memory."""
    torch_jobs: Mapping[str, Sequence[Job]]
    """As ``jobs``, of devices without the compiled trainer."""
    torch_tests: Mapping[str, Sequence[Job]]
    """As ``tests``, of the same."""
    allowed: Mapping[str, int]
    """Tier -> bytes that the processes of its devices may come to; 0 is no limit."""
    costs: Costs
    """What it was reckoned with."""

    def shared(self, method: Method) -> Tiers:
        """As rounds take it, under the method of all parts; a device that may use less than its tier falls back."""

        last = list(self.jobs)[-1]

        def job(device: DeviceId, room: Room | None) -> Job | None:
            jobs = self.jobs if room is None or room.compiled else self.torch_jobs
            return _first(jobs[self.members.get(device, last)], room, 0)

        def test(part: str, device: DeviceId, room: Room | None) -> Job | None:
            tests = self.tests if room is None or room.compiled else self.torch_tests
            return _first(tests[part], room, self.allowed[self.members.get(device, last)])

        return Tiers(method, tuple(self.methods), job, test, {name: each.local for name, each in self.methods.items()})


def _first(options: Sequence[Job], room: Room | None, allowed: int) -> Job | None:
    limits = [*([room.memory_bytes] if room is not None else []), *([allowed] if allowed else [])]
    return next((job for job in options if all(job.needs_bytes <= limit for limit in limits)), None)


class _Group(NamedTuple):
    """A tier as it is asked for."""

    name: str
    own: Tier
    examples: int
    """That its largest device holds."""
    training: int
    """Of these, to train on."""


def make(
    experiment: Experiment, costs: Costs, source: str, said: Mapping[DeviceId, str] = MappingProxyType({})
) -> FleetPlan:
    """The plan of an experiment's fleet: the same for the same experiment. ExperimentError for what nothing fits."""
    members = members_of(experiment.fleet, costs.devices(), said)
    groups = _groups(experiment, costs, members)
    inner = dict.fromkeys(groups, 0)
    while True:
        sizes = _sizes(groups, costs, inner, source)
        # parts that are trained along take memory as well, which may make a tier's own smaller
        more = {name: max(inner[name], len(_inner(costs, groups, sizes, sizes[name])[0])) for name in groups}
        if more == inner:
            break
        inner = more
    descending = sorted(set(sizes.values()), reverse=True)
    # a size that several tiers share has the first one's name; the whole model, where all of them do, has none
    names = {size: next(tier for tier in groups if sizes[tier] == size) for size in descending}
    if len(names) == 1 and not costs.structured:
        names = dict.fromkeys(names, "")
    try:
        methods = {names[size]: costs.method(size) for size in descending}
    except MethodError as error:
        raise ExperimentError(f"{source}: {error}") from error
    jobs, torch_jobs = (
        {tier: _jobs(costs, groups, sizes, names, own, torch=torch) for tier, own in groups.items() if own.own.trains}
        for torch in (False, costs.native)
    )
    plans: dict[str, TierPlan] = {}
    for tier, group in groups.items():
        most = min(group.own.density, costs.asked)
        bound = "density" if sizes[tier] == most else _bound(costs, group, sizes[tier], inner[tier])
        plans[tier] = _tier_plan(costs, group, sizes[tier], names[sizes[tier]], jobs.get(tier, ()), bound)
    largest_group = max(group.examples for group in groups.values())
    tests, torch_tests = (
        {names[size]: _tests(costs, names[size], size, largest_group, torch=torch) for size in descending}
        for torch in (False, costs.native)
    )
    allowed = {tier: group.own.train_memory_bytes for tier, group in groups.items()}
    return FleetPlan(plans, members, methods, jobs, tests, torch_jobs, torch_tests, allowed, costs)


def members_of(
    fleet: Mapping[str, Tier], devices: Sequence[DeviceId], said: Mapping[DeviceId, str]
) -> dict[DeviceId, str]:
    """Device -> its tier: what it says itself; where none says, the first devices are of the first tier, and so on.

    Whoever is left is of the last tier that trains.
    """
    places = [name for name, tier in fleet.items() if tier.trains for _ in range(tier.devices)]
    if any(tier in places for tier in said.values()):
        return {device: said[device] if said.get(device) in places else places[-1] for device in devices}
    return {device: places[min(index, len(places) - 1)] for index, device in enumerate(devices)}


def _groups(experiment: Experiment, costs: Costs, members: Mapping[DeviceId, str]) -> dict[str, _Group]:
    groups = {}
    for name, own in experiment.fleet.items():
        mine = [device for device, tier in members.items() if tier == name]
        groups[name] = _Group(name, own, *(costs.examples(mine) if mine else (0, 0)))
    return groups


def _sizes(groups: Mapping[str, _Group], costs: Costs, inner: Mapping[str, int], source: str) -> dict[str, float]:
    """Every tier's largest size. Tiers that only run the model come last: none holds more than what is trained."""
    sizes: dict[str, float] = {}
    for name, group in sorted(groups.items(), key=lambda item: not item[1].own.trains):
        trained = [size for other, size in sizes.items() if groups[other].own.trains]
        most = min(group.own.density, costs.asked if group.own.trains else max(trained))
        sizes[name] = _size(costs, group, most, inner[name], source)
    return sizes


def _size(costs: Costs, group: _Group, most: float, inner: int, source: str) -> float:
    """The largest size of a tier. ExperimentError naming the budget that nothing fits, and the least that would do."""

    def fits(size: float) -> bool:
        return all(need.met for need in _needs(costs, group, size, inner))

    if costs.drawn(most) is not None and fits(most):  # as in most plans, of which a search would try many smaller sizes
        return most
    grid = widths(most) if costs.structured else densities(most)
    # below some density a method may have nothing to offer, as where layers would be left without a weight
    too_small = largest(grid, lambda size: costs.drawn(size) is None)
    grid = tuple(size for size in grid if too_small is None or size > too_small)
    if not grid:
        raise ExperimentError(f"{source}: fleet.{group.name}.density: the method has no masks of {most:g} or below")
    found = largest(grid, fits)
    if found is not None:
        return found
    short = next(need for need in _needs(costs, group, grid[0], inner) if not need.met)
    raise ExperimentError(
        f"{source}: fleet.{group.name}.{short.budget}: nothing fits in {short.allowed:,} bytes; the least that would "
        f"do is {short.needed:,} ({short.needed / 2**20:.1f} MiB)"
    )


def _needs(costs: Costs, group: _Group, size: float, inner: int) -> list[Need]:
    training, own = 0, group.own
    if own.trains and own.train_memory_bytes:
        # not the last way's: where weights outweigh activations, the gradients that micro-batches add up cost more
        for way in costs.ways():
            needs = _with_margin(costs.memory(size, way, group.examples, inner, way.micro_batch or costs.batch))
            training = min(training or needs, needs)
            if needs <= own.train_memory_bytes:  # one that fits will do
                break
    return [
        Need("train_memory_bytes", training, own.train_memory_bytes),
        Need("flash_bytes", costs.flash_bytes(size, own), own.flash_bytes),
        Need("sram_bytes", costs.sram_bytes(size, own), own.sram_bytes),
    ]


def _bound(costs: Costs, group: _Group, size: float, inner: int) -> str:
    """The budget that the next larger size would not meet."""
    grid = [each for each in (widths(1.0) if costs.structured else densities(1.0)) if each > size]
    short = [need.budget for need in _needs(costs, group, grid[0], inner) if not need.met] if grid else []
    return short[0] if short else "density"


def _with_margin(memory: Memory) -> int:
    return ceil(_MARGIN * memory.total)


def _inner(
    costs: Costs, groups: Mapping[str, _Group], sizes: Mapping[str, float], size: float
) -> tuple[list[float], int]:
    """(smaller sizes that are trained along with this one, steps on them after each on its own; 0 by turns)."""
    smaller = sorted({each for each in sizes.values() if each < size}, reverse=True)
    if costs.local.turns is not None:
        return smaller, 0
    if not costs.structured and costs.inner_steps:
        return smaller, costs.inner_steps
    # a part that no device trains as its own is trained by those who hold it
    trained = {sizes[name] for name, group in groups.items() if group.training}
    orphans = [each for each in smaller if each not in trained]
    return orphans, len(orphans)


def _jobs(
    costs: Costs, groups: Mapping[str, _Group], sizes: Mapping[str, float], names: Mapping[float, str], group: _Group,
    *, torch: bool,
) -> tuple[Job, ...]:  # fmt: skip
    """What a tier's device does, and falls back on: leaner ways first, then smaller parts."""
    found: list[Job] = []
    allowed = group.own.train_memory_bytes
    for size, part in names.items():
        if size > sizes[group.name]:
            continue
        smaller, steps = _inner(costs, groups, sizes, size)
        inner = tuple(names[each] for each in smaller)
        for way in costs.ways(torch=torch):
            for grow_batch in _halved(costs.grow_batch, way.micro_batch or costs.batch):
                needs = _with_margin(costs.memory(size, way, group.examples, len(inner), grow_batch, torch=torch))
                if not allowed or needs <= allowed:
                    own = size if costs.local != Local() else 0.0
                    found.append(Job(part, costs.structured, inner, steps, way, 0, grow_batch, needs, own))
                    break
    return tuple(found)


def _tests(costs: Costs, part: str, size: float, examples: int, *, torch: bool) -> tuple[Job, ...]:
    """Testing a part, with fewer and fewer examples at a time."""
    needs = {batch: ceil(_MARGIN * costs.evaluation(size, batch, examples, torch=torch)) for batch in _TEST_BATCHES}
    return tuple(Job(part, costs.structured, batch=batch, needs_bytes=most) for batch, most in needs.items())


def _halved(most: int, least: int) -> list[int]:
    """``most``, half of it, and so on, but at least ``least``."""
    found = [max(most, least)]
    while found[-1] > least:
        found.append(max(least, found[-1] // 2))
    return found


def _tier_plan(costs: Costs, group: _Group, size: float, part: str, jobs: Sequence[Job], binds: str) -> TierPlan:
    job = jobs[0] if jobs else None
    down, up = costs.link_bytes(size) if job else (0, 0)
    return TierPlan(
        group.name,
        part,
        size,
        job,
        costs.memory(size, job.lean, group.examples, len(job.inner), job.grow_batch) if job else None,
        costs.flash_bytes(size, group.own),
        costs.sram_bytes(size, group.own),
        costs.macs(size),
        costs.sparse_macs(size),
        costs.stored_bytes(size),
        group.training,
        down,
        up,
        binds,
    )
