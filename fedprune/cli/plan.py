"""What ``fedprune plan`` and ``fedprune profile`` show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from fedprune.cli.progress import mib

if TYPE_CHECKING:
    from fedprune.budgets import Memory, Profile
    from fedprune.experiment import Experiment
    from fedprune.runs.planning import FleetPlan, TierPlan
    from fedprune.runs.recommending import Advice

_BINDS = {
    "density": "as asked",
    "train_memory_bytes": "training memory",
    "flash_bytes": "flash",
    "sram_bytes": "SRAM",
}


def show_plan(console: Console, experiment: Experiment, plan: FleetPlan, macs_per_second: float) -> None:
    """A column for each tier: what it trains, what that takes, and which budget binds."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in plan.tiers:
        table.add_column(name, justify="right")
    for label, cells in _rows(experiment, plan, macs_per_second).items():
        table.add_row(label, *cells)
    console.print(table)
    console.print(
        "\nBytes are predicted from the model's graph, for dense float32 kernels; a plan keeps 5 % of training memory "
        "to spare. Seconds are those of one thread of this machine, at "
        f"{macs_per_second / 1e9:.1f} billion multiply-adds a second, and leave out the link.",
        style="dim",
    )


def _rows(experiment: Experiment, plan: FleetPlan, macs_per_second: float) -> dict[str, list[str]]:
    tiers = list(plan.tiers.values())
    fleet, training = experiment.fleet, experiment.training
    what = "width" if any(tier.job and tier.job.structured for tier in tiers) else "density"
    rows = {
        "devices": [str(fleet[tier.tier].devices) for tier in tiers],
        what: [f"{tier.size:g}" for tier in tiers],
        "what binds": [_BINDS[tier.binds] for tier in tiers],
        "batch": [_batch(tier, training.batch) for tier in tiers],
        "recomputes blocks": [_yes(tier.job and tier.job.lean.recompute) for tier in tiers],
        "stores pruned weights": [_yes(tier.job and not (tier.job.lean.sparse or plan.costs.native)) for tier in tiers],
        "also trains": [", ".join(tier.job.inner) or "-" if tier.job else "-" for tier in tiers],
        "trainer": [("native" if plan.costs.native else "torch") if tier.job else "-" for tier in tiers],
        "[bold]peak of training[/bold]": [
            _limit(tier.memory.total if tier.memory else 0, fleet[tier.tier].train_memory_bytes) for tier in tiers
        ],
    }
    for part in ("weights", "gradients", "optimiser", "activations", "top_k", "link", "data", "runtime"):
        rows[f"  {_NAMES.get(part, part)}"] = [_part(tier.memory, part) for tier in tiers]
    rows |= {
        "seconds a round": [_seconds(experiment, plan, tier, macs_per_second) for tier in tiers],
        "down a round": [_size(tier.bytes_down) for tier in tiers],
        "up a round": [_size(tier.bytes_up) for tier in tiers],
        "[bold]flash of the model[/bold]": [_limit(tier.flash_bytes, fleet[tier.tier].flash_bytes) for tier in tiers],
        "[bold]SRAM to run it[/bold]": [_limit(tier.sram_bytes, fleet[tier.tier].sram_bytes) for tier in tiers],
        "multiply-adds": [f"{tier.macs / 1e6:.2f} M" for tier in tiers],
        "  by kept weights": [f"{tier.sparse_macs / 1e6:.2f} M" for tier in tiers],
        "int8 weights": [_size(tier.stored_bytes["dense"]) for tier in tiers],
    }
    for encoding, label in _ENCODINGS.items():
        rows[f"  {label}"] = [_size(tier.stored_bytes[encoding]) for tier in tiers]
    return rows


def show_advice(console: Console, experiment: Experiment, found: Sequence[Advice]) -> None:
    """The methods that fit, by what they take of the tightest tier; then the others, each with why."""
    fits = [each for each in found if not each.why_not]
    tiers = [name for name, each in experiment.fleet.items() if each.trains]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("method", "trainer", *tiers, "evidence without noise"):
        last = head == "evidence without noise"
        table.add_column(head, justify="right" if head in tiers else "left", no_wrap=not last, overflow="fold")
    for each in sorted(fits, key=lambda each: max(each.peaks.values())):
        cells = [f"{each.sizes[tier]:.3g}, {mib(each.peaks[tier])}" for tier in tiers]
        table.add_row(each.method, "native" if each.native else "torch", *cells, ", ".join(each.exact))
    console.print(table)
    console.print(
        "\nSizes are densities, or fractions of channels, that each tier's budgets allow, in the predicted memory of a "
        "device's process; the experiment's keys are given to every method that has them.",
        style="dim",
    )
    if refused := [each for each in found if each.why_not]:
        console.print(f"\n{len(fits)} of {len(found)} methods fit. The others:")
        for each in refused:
            console.print(f"  {each.method}: {each.why_not}", markup=False, soft_wrap=True)


_NAMES = {"top_k": "top-k buffer", "link": "request and reply", "data": "data", "runtime": "runtime"}


_ENCODINGS = {"bitmap": "with a bitmap", "gaps4": "4-bit gaps", "gaps8": "8-bit gaps", "entropy": "entropy bound"}


def show_profile(console: Console, profile: Profile) -> None:
    """What a device has, as the server will see it."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for label, value in _facts(profile).items():
        table.add_row(label, value)
    console.print(table)


def _facts(profile: Profile) -> Mapping[str, str]:
    return {
        "memory for training": f"{mib(profile.memory_bytes)} that this process may use in all",
        "runtime": f"{mib(profile.runtime_bytes)} of it before there is a model",
        "cores": str(profile.cores),
        "trainer": "the compiled one, without torch"
        if profile.compiled
        else "torch; the compiled one is not installed",
        "speed": f"{profile.macs_per_second / 1e9:.2f} billion multiply-adds a second, one thread, measured",
    }


def _batch(tier: TierPlan, batch: int) -> str:
    if tier.job is None:
        return "does not train"
    micro = tier.job.lean.micro_batch
    return f"{batch}, by {micro}" if micro else str(batch)


def _seconds(experiment: Experiment, plan: FleetPlan, tier: TierPlan, macs_per_second: float) -> str:
    from fedprune.budgets import natively, seconds

    if tier.job is None:
        return "-"
    job, examples = tier.job, tier.examples * experiment.training.epochs
    steps = 1 + min(job.inner_steps, len(job.inner))
    if plan.costs.native:
        batch = experiment.training.batch
        step_s = natively.step_seconds(*plan.costs.natively(tier.size), batch, job.lean)
        return f"{steps * examples / batch * step_s:.1f}"
    return f"{steps * seconds(tier.macs, examples, macs_per_second, recompute=job.lean.recompute):.1f}"


def _part(memory: Memory | None, part: str) -> str:
    return _size(getattr(memory, part)) if memory else "-"


def _limit(size: int, allowed: int) -> str:
    """``3.1 of 4.0 MiB``, in the unit of the larger."""
    if not allowed:
        return _size(size)
    unit, name = (2**20, "MiB") if max(size, allowed) >= 2**20 else (2**10, "KiB")
    return f"{size / unit:,.1f} of {allowed / unit:,.1f} {name}"


def _size(size: int) -> str:
    if not size:
        return "-"
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"


def _yes(value: object) -> str:
    return "-" if value is None else "yes" if value else "no"
