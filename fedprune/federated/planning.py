"""A fleet's plan: for every tier the largest part of the model that its budgets hold, and how its devices train it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from fedprune.budgets import Memory
from fedprune.budgets.plan import Need, densities, largest, ways, widths
from fedprune.experiment import Experiment, ExperimentError, Tier
from fedprune.federated.costs import Costs
from fedprune.federated.jobs import Job
from fedprune.federated.tiers import Tiers
from fedprune.methods import MethodError
from fedprune.types import Method

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
    members: tuple[str, ...]
    """Device -> its tier."""
    methods: Mapping[str, Method]
    """Part -> the method at its size, the largest first."""
    jobs: Mapping[str, Sequence[Job]]
    """Tier -> its job and what to fall back on, in less and less memory, as far as smaller parts."""

    def shared(self) -> Tiers:
        """As the strategy takes it: a device that may use less than its tier states falls back."""

        def job(device: int, memory_bytes: int | None) -> Job | None:
            options = self.jobs[self.members[device]]
            return next((job for job in options if memory_bytes is None or job.needs_bytes <= memory_bytes), None)

        return Tiers(self.methods, job)


def make(experiment: Experiment, costs: Costs, source: str) -> FleetPlan:
    """The plan of an experiment's fleet: the same for the same experiment. ExperimentError for what nothing fits."""
    asked, inner = costs.asked, len(experiment.fleet) - 1
    sizes: dict[str, float] = {}
    # tiers that only run the model come last: none of them holds more than what is trained
    for tier, own in sorted(experiment.fleet.items(), key=lambda item: not item[1].trains):
        trained = [size for other, size in sizes.items() if experiment.fleet[other].trains]
        most = min(own.density, asked if own.trains else max(trained))
        sizes[tier] = _size(costs, tier, own, most, _examples(costs, experiment, tier), source, inner)
    descending = sorted(set(sizes.values()), reverse=True)
    # a size that several tiers share has the first one's name; the whole model, where all of them do, has none
    names = {size: next(tier for tier in experiment.fleet if sizes[tier] == size) for size in descending}
    if len(names) == 1 and not costs.structured:
        names = dict.fromkeys(names, "")
    try:
        methods = {names[size]: costs.method(size) for size in descending}
    except MethodError as error:
        raise ExperimentError(f"{source}: {error}") from error
    own_parts = {names[sizes[tier]] for tier, own in experiment.fleet.items() if own.trains}
    jobs: dict[str, tuple[Job, ...]] = {}
    plans: dict[str, TierPlan] = {}
    for tier, own in experiment.fleet.items():
        smaller = {names[size]: size for size in descending if size <= sizes[tier]}
        examples = _examples(costs, experiment, tier)
        if own.trains:
            jobs[tier] = _jobs(costs, own, smaller, methods, own_parts, examples)
        plans[tier] = _tier_plan(costs, tier, own, sizes[tier], names[sizes[tier]], jobs.get(tier, ()), examples)
    members = tuple(tier for tier, own in experiment.fleet.items() if own.trains for _ in range(own.devices))
    return FleetPlan(plans, members, methods, jobs)


def _examples(costs: Costs, experiment: Experiment, tier: str) -> int:
    """Training examples of the tier's largest device."""
    first = 0
    for name, own in experiment.fleet.items():
        if own.trains and name == tier:
            return costs.most_examples(range(first, first + own.devices))
        first += own.devices * own.trains
    return 0


def _size(costs: Costs, tier: str, own: Tier, most: float, examples: int, source: str, inner: int) -> float:
    """The largest size of a tier. ExperimentError naming the budget that nothing fits, and the least that would do."""
    grid = widths(most) if costs.structured else densities(most)
    found = largest(grid, lambda size: all(need.met for need in _needs(costs, own, size, examples, inner)))
    if found is not None:
        return found
    short = next(need for need in _needs(costs, own, grid[0], examples, inner) if not need.met)
    raise ExperimentError(
        f"{source}: fleet.{tier}.{short.budget}: nothing fits in {short.allowed:,} bytes; the least that would do is "
        f"{short.needed:,} ({short.needed / 2**20:.1f} MiB)"
    )


def _needs(costs: Costs, own: Tier, size: float, examples: int, inner: int) -> list[Need]:
    training = 0
    if own.trains and own.train_memory_bytes:
        # not the last way's: where weights outweigh activations, the gradients that micro-batches add up cost more
        training = min(
            _with_margin(costs.memory(size, way, examples, inner, way.micro_batch or costs.batch))
            for way in ways(costs.batch, sparse=not costs.structured)
        )
    return [
        Need("train_memory_bytes", training, own.train_memory_bytes),
        Need("flash_bytes", costs.flash_bytes(size, own), own.flash_bytes),
        Need("sram_bytes", costs.sram_bytes(size, own), own.sram_bytes),
    ]


def _with_margin(memory: Memory) -> int:
    return ceil(_MARGIN * memory.total)


def _jobs(
    costs: Costs, own: Tier, parts: Mapping[str, float], methods: Mapping[str, Method], trained: set[str], examples: int
) -> tuple[Job, ...]:
    """What a tier's device does, and falls back on: leaner ways first, then smaller parts."""
    found: list[Job] = []
    names = list(parts)
    for index, (part, size) in enumerate(parts.items()):
        smaller = names[index + 1 :]
        steps = 0 if methods[part].structured else costs.inner_steps
        # a part that no tier trains as its own is trained by those who hold it
        every = steps or methods[part].ordered_dropout
        inner = tuple(smaller if every else [name for name in smaller if name not in trained])
        for way in ways(costs.batch, sparse=not costs.structured):
            for grow_batch in _halved(costs.grow_batch, way.micro_batch or costs.batch):
                needs = _with_margin(costs.memory(size, way, examples, len(inner), grow_batch))
                if not own.train_memory_bytes or needs <= own.train_memory_bytes:
                    batch = costs.evaluation_batch(size, way)
                    found.append(Job(part, costs.structured, inner, steps, way, batch, grow_batch, needs))
                    break
    return tuple(found)


def _halved(most: int, least: int) -> list[int]:
    """``most``, half of it, and so on, but at least ``least``."""
    found = [max(most, least)]
    while found[-1] > least:
        found.append(max(least, found[-1] // 2))
    return found


def _tier_plan(
    costs: Costs, tier: str, own: Tier, size: float, part: str, jobs: Sequence[Job], examples: int
) -> TierPlan:
    job = jobs[0] if jobs else None
    grid = [each for each in (widths(1.0) if costs.structured else densities(1.0)) if each > size]
    inner = len(job.inner) if job else 0
    short = [need.budget for need in _needs(costs, own, grid[0], examples, inner) if not need.met] if grid else []
    down, up = costs.link_bytes(size) if job else (0, 0)
    return TierPlan(
        tier,
        part,
        size,
        job,
        costs.memory(size, job.lean, examples, inner, job.grow_batch) if job else None,
        costs.flash_bytes(size, own),
        costs.sram_bytes(size, own),
        costs.macs(size),
        costs.sparse_macs(size),
        costs.stored_bytes(size),
        examples,
        down,
        up,
        short[0] if short else "density",
    )
