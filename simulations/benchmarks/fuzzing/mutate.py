"""Honest bytes, spoilt: bits and slices of binaries, words and lines of texts, sizes as their edges have them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedprune.wire.reading import varint

SEPARATOR = b"\n\x00--part--\x00\n"
"""Between the parts of an input that comes in several; one of them is spoilt."""
_EDGES = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_NUMBERS = ("nan", "-nan", "inf", "-inf", "NaN", "Infinity", "1e400", "-1", "0", "-0.0", "0.5", "1e-320", "3.0", "true",
            "null", '"3"', "[]", "{}", "1979-05-27", "9" * 25, "9" * 5000, str(2**31), str(2**63), str(2**64),
            "0x" + "f" * 40, "[3]", '{"a": 3}')  # fmt: skip
_TEXTS = ("", "\x00", "a\nb", "../../x", "/etc/passwd", "x" * 5000, "\\u0000", "\\ud800", "\u202e", "[red]", "é" * 300,
          "%s", "a b", "..", "con\x7f", "\\")  # fmt: skip
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_TEXT = re.compile(r'"[^"\n]*"')
_WORD = re.compile(r"[A-Za-z_][\w.-]*")
_MOST = 1 << 17
"""Bytes of an input: time goes to many, not to long ones."""

Change = Callable[[bytes, np.random.Generator], bytes]


def mutated(seeds: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """One of the seeds with one to four changes, which the generator decides."""
    parts = _pick(seeds, rng).split(SEPARATOR)
    at = int(rng.integers(len(parts)))
    others = [seed.split(SEPARATOR)[at] for seed in seeds if seed.count(SEPARATOR) >= at]
    for _ in range(int(rng.integers(1, 5))):
        changes = TEXTUAL if _is_text(parts[at]) and rng.random() < 0.75 else BINARY
        if rng.random() < 0.05:
            parts[at] = _spliced(parts[at], _pick(others, rng), rng)
        else:
            parts[at] = _pick(changes, rng)(parts[at], rng)[:_MOST]
    return SEPARATOR.join(parts)[:_MOST]


def _pick(among: Sequence[Any], rng: np.random.Generator) -> Any:
    return among[int(rng.integers(len(among)))]


def _is_text(data: bytes) -> bool:
    try:
        return bool(data) and data.decode().replace("\n", "").replace("\t", "").isprintable()
    except UnicodeDecodeError:
        return False


def _place(data: bytes, rng: np.random.Generator) -> int:
    """Anywhere, but half the times near the beginning, where sizes, names and codes are."""
    end = len(data) if rng.random() < 0.5 else min(len(data), 200)
    return int(rng.integers(end + 1))


def _slice(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + int(rng.choice([1, 2, 4, 8, 32, 200, 2000])))


def _spliced(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _bit(data: bytes, rng: np.random.Generator) -> bytes:
    at = _place(data, rng)
    return data[:at] + bytes(byte ^ 1 << int(rng.integers(8)) for byte in data[at : at + 1]) + data[at + 1 :]


def _bytes(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _slice(data, rng)
    return data[:start] + rng.bytes(end - start) + data[end:]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: _place(data, rng)]


def _inserted(data: bytes, rng: np.random.Generator) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.bytes(int(rng.integers(1, 17))) + data[at:]


def _doubled(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _slice(data, rng)
    return data[:end] + data[start:end] * int(rng.choice([1, 2, 50])) + data[end:]


def _dropped(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _slice(data, rng)
    return data[:start] + data[end:]


def _filled(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = _slice(data, rng)
    return data[:start] + bytes([int(rng.choice([0, 1, 127, 128, 255]))]) * (end - start) + data[end:]


def _edge(data: bytes, rng: np.random.Generator) -> bytes:
    """An integer of 1, 2, 4 or 8 bytes, or a varint, at one of its edges."""
    value, at = _pick(_EDGES, rng), _place(data, rng)
    if rng.random() < 0.5:
        written, length = varint(value), 1
        while length < 10 and at + length < len(data) and data[at + length - 1] > 127:
            length += 1
    else:
        length = int(rng.choice([1, 2, 4, 8]))
        written = (value % 2 ** (8 * length)).to_bytes(length, "little")
    return data[:at] + written + data[at + length :]


def _at_one(pattern: re.Pattern[str], data: bytes, rng: np.random.Generator, new: Callable[[str], str]) -> bytes:
    text = data.decode(errors="surrogateescape")
    found = list(pattern.finditer(text))
    if not found:
        return data
    one = _pick(found, rng)
    return (text[: one.start()] + new(one[0]) + text[one.end() :]).encode(errors="surrogateescape")


def _number(data: bytes, rng: np.random.Generator) -> bytes:
    return _at_one(_NUMBER, data, rng, lambda _: _pick(_NUMBERS, rng))


def _text(data: bytes, rng: np.random.Generator) -> bytes:
    def new(old: str) -> str:
        return _pick((f'"{_pick(_TEXTS, rng)}"', f'"{old[1:-1]}{_pick(_TEXTS, rng)}"', *_NUMBERS[:6]), rng)

    return _at_one(_TEXT, data, rng, new)


def _word(data: bytes, rng: np.random.Generator) -> bytes:
    words = _WORD.findall(data.decode(errors="replace")) or ["x"]
    return _at_one(_WORD, data, rng, lambda old: _pick((_pick(words, rng), old + "x", f"{old}.{old}", f'"{old}"'), rng))


def _nested(data: bytes, rng: np.random.Generator) -> bytes:
    depth, (opens, closes) = (
        int(rng.choice([3, 70, 3000, 20000])),
        _pick((("[", "]"), ('{"a":', "}"), ("{a=", "}")), rng),
    )

    def new(old: str) -> str:
        return opens * depth + old + closes * depth

    if rng.random() < 0.2:
        return _at_one(_WORD, data, rng, lambda old: ".".join([old[:9]] * depth))
    return _at_one(_pick((_NUMBER, _TEXT), rng), data, rng, new)


def _lines(data: bytes, rng: np.random.Generator) -> bytes:
    between = b"\n" if data.count(b"\n") > 2 else b","
    lines = data.split(between)
    one, other = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    kind = int(rng.integers(3))
    if kind == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == 1:
        lines.insert(one, lines[other])
    else:
        del lines[one]
    return between.join(lines)


def _swapped_values(data: bytes, rng: np.random.Generator) -> bytes:
    text = data.decode(errors="replace")
    found = [*_NUMBER.findall(text), *_TEXT.findall(text)] or ["0"]
    return _at_one(_pick((_NUMBER, _TEXT), rng), data, rng, lambda _: _pick(found, rng))


BINARY: Sequence[Change] = (_bit, _bit, _bytes, _cut, _inserted, _doubled, _dropped, _filled, _edge, _edge, _edge)
TEXTUAL: Sequence[Change] = (_number, _number, _text, _text, _word, _nested, _lines, _lines, _swapped_values)
