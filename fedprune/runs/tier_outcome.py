"""What a fleet's run ends in for each tier: ``tiers/NAME/`` with its model, its card, its accuracy by device."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedprune.export.text import markdown
from fedprune.federated.rounds.model import State
from fedprune.files import write_atomically
from fedprune.runs.folder import RunFolder, inside
from fedprune.runs.forms import Check, Forms
from fedprune.runs.int8_facts import int8_facts
from fedprune.runs.planning import TierPlan
from fedprune.runs.setting import Setting
from fedprune.tasks import entry, metric_in, value_in, value_key

Write = Callable[[Path, Forms, Mapping[str, Any]], Mapping[str, Any]]
"""Writes the files of a model, with its facts, into a folder; returns the facts of them, of which some are new."""


def finish(
    setting: Setting, folder: RunFolder, state: State, write: Write, made: Callable[[str, int], tuple[Forms, Check]]
) -> dict[str, dict[str, Any]]:
    """Write every tier's files; returns, by tier, what result.json says of it.

    ``made`` gives the forms of a part for so many bytes of SRAM, and how they do.
    """
    assert setting.plan is not None
    found: dict[str, dict[str, Any]] = {}
    for name, plan in setting.plan.tiers.items():
        forms, checked = made(plan.part, setting.experiment.fleet[name].sram_bytes)
        found[name] = _facts(setting, plan, state.view(plan.part).density(), forms, checked)
        path = inside(folder.path, "tiers", name)
        found[name] |= write(path, forms, found[name])
        write_atomically(path / "card.json", (json.dumps(found[name], indent=2) + "\n").encode())
        write_atomically(path / "card.md", _page(found[name]).encode())
    return found


def _facts(setting: Setting, plan: TierPlan, density: float, forms: Forms, checked: Check) -> dict[str, Any]:
    assert setting.plan is not None
    own = setting.experiment.fleet[plan.tier]
    by_device = {device: checked.by_device.get(device) for device in setting.holds}
    tested = {device: value for device, value in by_device.items() if value is not None}
    metric = checked.task.metric
    worst = (min if metric.higher else max)(tested, key=lambda device: tested[device], default=None)
    file = forms.micro if own.sram_bytes else forms.litert_int8
    return {
        "name": f"{setting.experiment.name}, {plan.tier}",
        "part": plan.part,
        "size": plan.size,
        "density": density,
        "devices": [*setting.plan.members.values()].count(plan.tier) if own.trains else own.devices,
        **outcome_of(checked),
        **int8_facts(forms, checked),
        "worst_device": None if worst is None else {"device": worst, value_key(metric): tested[worst]},
        "accuracy_by_device": {},
        f"{value_key(metric)}_by_device": by_device,
        "flash_bytes": len(file),
        "flash_bytes_allowed": own.flash_bytes,
        "arena_bytes": checked.arena_bytes,
        "sram_bytes_allowed": own.sram_bytes,
        "train_memory_bytes_allowed": own.train_memory_bytes,
        "train_memory_bytes_predicted": plan.memory.total if plan.memory else 0,
        "macs": forms.macs,
        "fits": _fits(len(file), own.flash_bytes) and _fits(checked.arena_bytes or 0, own.sram_bytes),
        "bytes": {
            "model.tflite": len(forms.litert_int8),
            "model_float.tflite": len(forms.litert_float),
            "microcontroller": len(forms.micro),
        },
        "checks": checked.forms,
    }


def outcome_of(checked: Check) -> dict[str, Any]:
    """What result.json says of the metric; keys of an accuracy are there whatever it is, None where it is another."""
    told = entry(checked.task.metric, float=checked.value, int8=checked.int8)
    others = {"agreement": checked.task.agreement._asdict()} if "metric" in told else {}
    return {"accuracy_float": None, "accuracy_int8": None, **told, **others}


def _page(facts: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    worst = facts["worst_device"]
    arena = f"{facts['arena_bytes']:,} bytes" if facts["arena_bytes"] else "not measured"
    metric = metric_in(facts)
    name = metric.title
    rows = [
        (f"{name}, int8, all test parts", metric.text(value_in(facts, "int8"))),
        (f"{name}, torch", metric.text(value_in(facts, "float"))),
        (
            "Worst device",
            f"{markdown(str(worst['device']))}: {metric.text(value_in(worst))}" if worst else "not tested",
        ),
        ("Density of the prunable weights", f"{facts['density']:.4f}"),
        ("Flash", f"{facts['flash_bytes']:,} bytes{_of(facts['flash_bytes_allowed'])}"),
        ("Arena (working memory)", f"{arena}{_of(facts['sram_bytes_allowed'])}"),
        ("Multiply-adds", f"{facts['macs']:,}"),
    ]
    if "c99_flash_bytes_predicted" in facts:
        counted, whole = facts["c99_constants_bytes"], facts["c99_flash_bytes_predicted"]
        in_c = f"{counted:,} bytes of flash for weights and tables, about {whole:,} with code"
        rows.append(("As C99 sources instead", f"{in_c}; {facts['c99_arena_bytes']:,} of RAM"))
    rows[:0] = [("**Warning**", markdown(said)) for said in facts.get("warnings", ())]
    if not facts["fits"]:
        rows.insert(0, ("**Does not fit**", "more flash or arena than this tier may use; see below"))
    if facts["train_memory_bytes_predicted"]:
        limit = _of(facts["train_memory_bytes_allowed"])
        rows.append(("Training memory, predicted", f"{facts['train_memory_bytes_predicted']:,} bytes{limit}"))
    lines = [f"# {markdown(facts['name'])}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)]
    devices = [
        f"| {markdown(str(device))} | {metric.text(value)} |"
        for device, value in facts[f"{value_key(metric)}_by_device"].items()
        if value is not None
    ]
    return "\n".join([*lines, "", f"| device | {metric.name}, int8 |", "|---|---|", *devices]) + "\n"


def _fits(size: int, allowed: int) -> bool:
    return not allowed or size <= allowed


def _of(allowed: int) -> str:
    return f" of {allowed:,} allowed" if allowed else ""
