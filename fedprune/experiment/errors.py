"""What is wrong with an experiment in one line: the key, what was found there, what would be right."""

import re
from collections.abc import Mapping

import msgspec

Tables = Mapping[str, type[msgspec.Struct]]
"""Table of the experiment, ``""`` for the outermost, ``key[]`` for each of a list -> its keys."""

_NAMES = {"int": "a whole number", "float": "a number", "str": "a text in quotes", "bool": "true or false",
          "object": "a table", "array": "a list", "null": "nothing"}  # fmt: skip


def explain(message: str, tables: Tables) -> str:
    """msgspec's ``message`` as ``key: what is wrong and what would be right``."""
    text, _, where = message.partition(" - at ")
    path = where.strip("`").removeprefix("$").strip(".")
    if unknown := re.search(r"unknown field `(.*)`", text, re.DOTALL):
        name = unknown[1] if re.fullmatch(r"[\w-]+", unknown[1]) else repr(unknown[1])
        keys = list(tables.get(_any_of(path), tables[""]).__struct_fields__)
        import difflib  # which a device seldom needs

        close = difflib.get_close_matches(name, keys, 1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(sorted(keys))}"
        return f"{'.'.join(filter(None, [path, name]))}: unknown key; {hint}"
    if missing := re.search(r"missing required field `(.+)`", text):
        return f"{'.'.join(filter(None, [path, missing[1]]))}: missing; it has no default"
    if wrong := re.fullmatch(r"Expected `(.+)`, got `(\w+)`", text):
        kinds = " or ".join(_NAMES.get(kind.strip(), kind) for kind in wrong[1].split("|") if kind.strip() != "null")
        return f"{path}: expected {kinds}, got {_NAMES.get(wrong[2], wrong[2])}"
    if choice := re.fullmatch(r"Invalid enum value '?(.+?)'?", text):
        field = path.rsplit(".", 1)[-1]
        table = tables[_any_of(path.rpartition(".")[0])]
        options = next(each.type for each in msgspec.structs.fields(table) if each.name == field)
        return f"{path}: {choice[1]!r} is not one of {', '.join(options.__args__)}"
    if bound := re.fullmatch(r"Expected `(\w+)` (.+)", text):
        return f"{path}: expected {_NAMES.get(bound[1], bound[1])} {bound[2]}"
    return f"{path}: {text}"


def _any_of(path: str) -> str:
    """The path of a table in a list as that of any of them: key[3] is key[]."""
    return re.sub(r"\[\d+\]", "[]", path)


_MOST_LETTERS, _MOST_QUOTED = 1000, 60


def one_line(message: str) -> str:
    """``message`` in printable characters alone, without its middle where it is long."""
    if len(message) > _MOST_LETTERS:
        message = f"{message[: _MOST_LETTERS * 2 // 3]} ... {message[-_MOST_LETTERS // 3 :]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)


def quoted(value: object) -> str:
    """A value from outside as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits
        return f"{type(value).__name__} beyond all bounds"
    return text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}..."
