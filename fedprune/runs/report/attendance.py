"""Who was asked, who answered and who did not, as lines of metrics say it; what makes no sense in them is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

WORDS = ("absent", "aside", "answered", "refused", "late", "failed")
"""What can be said of a device, the more telling later."""
_RANK = {word: rank for rank, word in enumerate(WORDS)}


class Said(NamedTuple):
    """What a line of metrics says of a device."""

    word: str
    why: str = ""


_ANSWERED = Said("answered")


def answers(row: Mapping[str, Any], count: int) -> dict[int, Said]:
    """Device -> answered, refused, late or failed, of ``count`` devices; those that nothing is known of are left out.

    Lines of old runs do not say who was asked, only who failed or refused and how many answered: there the others have
    answered where that makes ``count``.
    """
    failed, refused, late = named(row.get("faults")), named(row.get("refused")), {*wholes(row.get("late"))}
    said = dict.fromkeys(_asked(row, count) or (), _ANSWERED)
    for device, what in refused.items():
        said[device] = Said("refused", _needs(what))
    for device, why in failed.items():
        said[device] = Said("late" if device in late else "failed", str(why))
    return said if max(said, default=0) < count else {device: said[device] for device in said if device < count}


def faults(row: Mapping[str, Any]) -> dict[int, str]:
    """Device -> why its reply was not taken; "late" is said of those that ran out of time."""
    late = {*wholes(row.get("late"))}
    return {
        device: f"late, {why}" if device in late and not re.search(r"\blate\b", str(why)) else str(why)
        for device, why in named(row.get("faults")).items()
    }


def away(row: Mapping[str, Any]) -> dict[int, Said] | None:
    """Device -> aside or absent, of those that are not asked; None where a line asked nobody and so does not tell."""
    if "asked" not in row and "devices" not in row:
        return None
    kinds = (("absent", named(row.get("absent"))), ("aside", named(row.get("aside"))))
    return {device: Said(word, str(why)) for word, found in kinds for device, why in found.items()}


def strangers(row: Mapping[str, Any]) -> dict[str, str]:
    """Node that is none of the devices -> why."""
    found = row.get("strangers")
    return {str(node): str(why) for node, why in found.items()} if isinstance(found, Mapping) else {}


def attendance(rows: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """A line for each of ``count`` devices, in order.

    ``word`` is of the last ``phase`` and ``round`` in which it is known to have been asked, ``away`` and
    ``away_why`` whether it is aside or absent by now. ``asked`` and ``answered`` count phases, and are None where some
    line does not tell; ``faults`` counts late replies too, and ``last_trouble`` is why it
    last failed or refused.
    """
    found = [_blank(device) for device in range(count)]
    asked, troubles, last = [0] * count, [0] * count, dict[int, tuple[Mapping[str, Any], str]]()
    known, gone = True, dict[int, Said]()
    for row in rows:
        told = away(row)
        gone = gone if told is None else told
        known = known and (told is None or _asked(row, count) is not None)
        for device, said in answers(row, count).items():
            asked[device] += 1
            last[device] = row, said.word
            if said is _ANSWERED:  # most are, of a thousand devices in a thousand lines
                continue
            line, (word, why) = found[device], said
            troubles[device] += 1
            line |= {"late": line["late"] + (word == "late"), "last_trouble": why}
            if word in ("late", "failed"):
                line |= {"faults": line["faults"] + 1, "last_fault": why}
            elif word == "refused":
                needs = (row.get("refused") or {}).get(str(device))
                line |= {"refusals": line["refusals"] + 1, **_memory(needs, line["memory_bytes"])}
    for line in found:
        said_away = gone.get(line["device"])
        line |= {"away": said_away.word, "away_why": said_away.why} if said_away else {}
        if (index := line["device"]) in last:
            row, word = last[index]
            line |= {"word": word, "phase": row["phase"], "round": row["round"]}
        if known:
            line |= {"asked": asked[index], "answered": asked[index] - troubles[index]}
    return found


def roster(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of all devices that lines speak of, sorted, where devices go by names; none where they have numbers."""
    asked = [each for row in rows if isinstance(found := row.get("asked"), list) for each in found]
    names: set[str] = {*asked} if all(isinstance(each, str) for each in asked) else set()
    if names:  # then whoever else is spoken of has a name as well
        for row in rows:
            names |= {name for key in _BY_DEVICE if isinstance(found := row.get(key), Mapping) for name in found}
    return tuple(sorted(names))


def numbered(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    """The lines with a device's place among ``names`` in the place of its name; as they are where there are none."""
    places = {name: place for place, name in enumerate(names)}
    return [_numbered(row, places) for row in rows] if places else rows


_BY_DEVICE = ("faults", "refused", "absent", "aside", "replanned")


def _numbered(row: Mapping[str, Any], places: Mapping[str, int]) -> dict[str, Any]:
    found = dict(row)
    for key in _BY_DEVICE:
        if isinstance(said := row.get(key), Mapping):
            found[key] = {str(places[name]): what for name, what in said.items() if name in places}
    for key in ("asked", "late"):
        if isinstance(listed := row.get(key), list):
            found[key] = [places[name] for name in listed if isinstance(name, str) and name in places]
    if isinstance(worst := row.get("worst"), Mapping) and worst.get("device") in places:
        found["worst"] = {**worst, "device": places[worst["device"]]}
    return found


def by_round(rows: Sequence[Mapping[str, Any]], count: int) -> dict[int, dict[int, str]]:
    """Device -> round -> the most telling of ``WORDS``, for devices and rounds of which something is known."""
    found: dict[int, dict[int, str]] = {}
    for row in rows:
        gone = {device: said for device, said in (away(row) or {}).items() if device < count}
        for device, (word, _) in [*gone.items(), *answers(row, count).items()]:
            line = found.setdefault(device, {})
            if _RANK[word] >= _RANK[line.get(row["round"], word)]:
                line[row["round"]] = word
    return found


def named(value: object) -> dict[int, Any]:
    """Device -> what is said of it; devices are texts in JSON."""
    if not isinstance(value, Mapping):
        return {}
    return {int(key): said for key, said in value.items() if isinstance(key, str) and key.isdecimal()}


def whole(value: object) -> int:
    """A whole number above 0 as it is; 0 for all else."""
    return value if isinstance(value, int) and value > 0 else 0


def wholes(value: object) -> list[int]:
    """The whole numbers in a list, not below 0."""
    return [each for each in value if type(each) is int and each >= 0] if isinstance(value, list) else []


def _asked(row: Mapping[str, Any], count: int) -> list[int] | None:
    """The devices that were asked, None where the line does not tell."""
    if isinstance(row.get("asked"), list):
        return wholes(row["asked"])
    named_devices = len(named(row.get("faults"))) + len(named(row.get("refused")))
    return [*range(count)] if whole(row.get("devices")) + named_devices == count else None


def _memory(said: object, before: int | None) -> dict[str, int | None]:
    said = said if isinstance(said, Mapping) else {}
    return {
        "needs_bytes": whole(said.get("refused")) or None,
        "memory_bytes": whole(said.get("memory_bytes")) or before,
    }


def _needs(said: object) -> str:
    memory = _memory(said, None)
    needs, has = memory["needs_bytes"], memory["memory_bytes"]
    return f"needs {needs / 2**20:,.1f} MiB, has {has / 2**20:,.1f} MiB" if needs and has else "refused"


def _blank(device: int) -> dict[str, Any]:
    return {
        "device": device, "phase": "", "round": None, "word": "", "away": "", "away_why": "",
        "asked": None, "answered": None, "late": 0, "faults": 0, "last_fault": "", "last_trouble": "", "refusals": 0,
        "needs_bytes": None, "memory_bytes": None,
    }  # fmt: skip
