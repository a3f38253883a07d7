"""What befell the devices of a run: a strip of rounds by devices, and a table; nothing where all went well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedprune.runs.report import charts
from fedprune.runs.report.attendance import attendance, by_round, numbered, roster, strangers, whole
from fedprune.runs.report.style import figure, table

_MOST = 50  # devices that a page draws and lists


def devices(rows: Sequence[Mapping[str, Any]], count: int) -> str:
    """HTML for the ``count`` devices of a run: who was asked, answered or did not, and why; "" where all answered."""
    names = roster(rows)
    rows, count = numbered(rows, names), max(count, len(names))
    rounds = {device: dict[int, str]() for device in range(count)} | by_round(rows, count)
    lines = [_with_rounds(line, rounds[line["device"]]) for line in attendance(rows, count)]
    unknown = {node: why for row in rows for node, why in strangers(row).items()}
    retried = sum(whole(row.get("retried")) for row in rows)
    worst = sorted((line for line in lines if _trouble(line)), key=_trouble, reverse=True)
    shown = lines if count <= _MOST else sorted(worst[:_MOST], key=lambda line: int(line["device"]))
    if not worst and not unknown and not retried:
        return ""
    body = []
    if worst:
        caption = f"{_rest(len(worst), count)} Of all that happened to a device in a round, the worst is drawn."
        body += [
            figure(charts.strip({_called(line, names): rounds[line["device"]] for line in shown}), caption),
            f'<div class="wide">{table(_HEAD, [_cells(line, names) for line in shown])}</div>',
            "<p class=dim>Asked and answered count phases, and late ones are among the failed. Aside is a device that "
            "failed repeatedly and is not asked for some rounds, absent one that is not connected.</p>",
        ]
    if retried:
        body.append(f"<p>Those that failed were asked again {retried} time{'s' * (retried > 1)} in all.</p>")
    if unknown:
        listed = "".join(f"<li>node {escape(node)}: {escape(why)}</li>" for node, why in [*unknown.items()][:_MOST])
        body.append(f"<p>Nodes that were none of the devices:</p><ul>{listed}</ul>")
    return "<h2>Devices</h2>" + "\n".join(body)


_HEAD = ("device", "asked", "answered", "failed", "late", "refused", "rounds aside", "rounds absent", "last reason")


def _with_rounds(line: Mapping[str, Any], rounds: Mapping[int, str]) -> dict[str, Any]:
    """A device's line with the rounds in which it was not asked, since it was aside or absent."""
    return {**line, **{word: [*rounds.values()].count(word) for word in ("aside", "absent")}}


def _trouble(line: Mapping[str, Any]) -> int:
    return sum(int(line[key]) for key in ("faults", "refusals", "aside", "absent"))


def _called(line: Mapping[str, Any], names: Sequence[str]) -> str:
    return names[line["device"]] if names else str(line["device"])


def _cells(line: Mapping[str, Any], names: Sequence[str]) -> list[object]:
    line = {**line, "device": _called(line, names)}
    keys = ("device", "asked", "answered", "faults", "late", "refusals", "aside", "absent", "last_trouble")
    return ["–" if line[key] is None else line[key] for key in keys]


def _rest(troubled: int, count: int) -> str:
    """What is to be said of the devices that are not shown."""
    if count <= _MOST:
        return f"{troubled} of {count} devices failed, refused or were away at some time."
    shown = f"the {_MOST} worst of them are shown" if troubled > _MOST else "they are shown"
    return f"{troubled} of {count} devices failed, refused or were away at some time; {shown}."
