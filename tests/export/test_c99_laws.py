"""Laws of the C export: codes give weights back, plans never lose a byte, numbers are those of plain arithmetic."""

from collections.abc import Callable
from fractions import Fraction
from math import exp, floor
from random import Random

import numpy as np
import pytest
from c99_files import Draft
from c99_memory import Memory, together
from c99_nets import chain
from hypothesis import example, given
from hypothesis import strategies as st

from fedprune.export import c99
from fedprune.export.c99.encoding import _TILE_BYTES, DENSE, ENCODINGS, Code, Encoding, encode
from fedprune.export.c99.exponentials import exponentials
from fedprune.export.c99.numbers import Factor, clipping, factor, scaled
from fedprune.export.c99.plan import _laid_out, plan
from fedprune.export.c99.program import Program
from fedprune.export.c99.rules import lower
from fedprune.export.c99.streams import Stream, stream
from fedprune.export.litert import Affine

Byte = Callable[[], int]


def signed(byte: int) -> int:
    return (byte ^ 128) - 128


def dense(byte: Byte, row: np.ndarray, place: int) -> int:
    row[place : place + 2] = signed(byte()), signed(byte())
    return place + 2


def after_gaps(gaps: tuple[int, ...], byte: Byte, row: np.ndarray, place: int) -> int:
    for gap in gaps:
        row[place + gap] = signed(byte())
        place += gap + 1
    return place


def gap4(byte: Byte, row: np.ndarray, place: int) -> int:
    both = byte()
    return after_gaps((both % 16, both // 16), byte, row, place)


def gap5(byte: Byte, row: np.ndarray, place: int) -> int:
    one, two = byte(), byte()
    gaps = one + two * 256
    return after_gaps((gaps % 32, gaps // 32 % 32, gaps // 1024), byte, row, place)


def gap8(byte: Byte, row: np.ndarray, place: int) -> int:
    return after_gaps((byte(),), byte, row, place)


def bitmap(byte: Byte, row: np.ndarray, place: int) -> int:
    for at, bit in enumerate(f"{byte():08b}"):
        if bit == "1":
            row[place + at] = signed(byte())
    return place + 8


DECODERS = {each.__name__: each for each in (dense, gap4, gap5, gap8, bitmap)}


def decoded(code: Code, filters: int, weights: int) -> np.ndarray:
    """Return the filters of a code, decoded as the comments of the kernels say; every segment is one that they bear."""
    content = iter(code.content)
    found = np.zeros((filters, weights + 8), np.int64)
    for row in found:
        place = 0
        for _ in range(code.segments):
            before = row.copy()
            for _ in range(next(content)):
                place = DECODERS[code.encoding.name](lambda: next(content), row, place)
            inside = row - before
            # two positions share a word: a sum of inputs of -128 to 127 must fit into 23 bits with its sign
            assert 128 * np.abs(inside).sum() < 2**22
        assert not row[weights:].any()
        assert place <= weights + 2 or code.encoding.name == "bitmap"  # what is read past the end: a pair, a triple
    assert next(content, None) is None
    return found[:, :weights]


@st.composite
def layers(draw: st.DrawFn) -> np.ndarray:
    """Filters of a few weights anywhere, or of so many that are drawn at once, some of them alike or without any."""
    count, length = draw(st.integers(1, 4)), draw(st.integers(1, 600))
    found = np.zeros((count, length), np.int8)
    if draw(st.booleans()):
        places = st.tuples(st.integers(0, count - 1), st.integers(0, length - 1), st.integers(-128, 127))
        for row, column, weight in draw(st.lists(places, max_size=40)):
            found[row, column] = weight
        return found
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    low, high = draw(st.sampled_from([(-128, 127), (1, 3), (127, 127), (-128, -128), (100, 127)]))
    kept = random.random(found.shape) < draw(st.sampled_from([0.01, 0.05, 0.2, 0.5, 0.9, 1]))
    return np.where(kept, random.integers(low, high + 1, found.shape), 0).astype(np.int8)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda each: each.name)
@given(filters=layers())
@example(filters=np.zeros((3, 1), np.int8))
@example(filters=np.full((2, 600), -128, np.int8))
@example(filters=np.pad(np.int8([[127]]), ((0, 1), (599, 0))))
@example(filters=np.tile(np.int8([[1] + [0] * 16]), (1, 30)))
def test_a_code_gives_its_weights_back(encoding: Encoding, filters: np.ndarray) -> None:
    code = encode(filters, encoding)
    np.testing.assert_array_equal(decoded(code, *filters.shape), filters)
    fits = 128 * np.abs(filters.astype(np.int64)).sum(1).max() < 2**22
    assert code.segments == 1 or not fits or filters.shape[1] > 255


def test_codes_by_hand() -> None:
    filters = np.int8([[0, 5, 0, 0, -1], [0] * 5])
    wanted = {
        "dense": [3, 0, 5, 0, 0, 255, 0, 3, 0, 0, 0, 0, 0, 0],
        "gap4": [1, 0x21, 5, 255, 0],
        "gap5": [1, 1 + 2 * 32, 0, 5, 255, 0, 0],
        "gap8": [2, 1, 5, 2, 255, 0],
        "bitmap": [1, 0b01001000, 5, 255, 1, 0],
    }
    assert {each.name: [*encode(filters, each).content] for each in ENCODINGS} == wanted
    far = np.zeros((1, 20), np.int8)
    far[0, 18] = 7
    content = {each.name: [*encode(far, each).content] for each in ENCODINGS}
    assert content["gap4"] == [1, 0x2F, 0, 7]  # fifteen zeros, one as a weight, two more
    assert content["gap5"] == [1, 18, 0, 7, 0, 0]


@given(st.lists(layers(), min_size=1, max_size=4))
def test_the_smallest_codes_take_no_more_than_one_for_all(made: list[np.ndarray]) -> None:
    chosen = c99.smallest(made)
    for code, filters in zip(chosen, made, strict=True):
        np.testing.assert_array_equal(decoded(code, *filters.shape), filters)
    decoders = {code.encoding for code in chosen}
    total = sum(len(code.content) for code in chosen) + sum(each.code_bytes for each in decoders)
    total += _TILE_BYTES if decoders != {DENSE} else 0
    for each in ENCODINGS:
        shared = 0 if each == DENSE else _TILE_BYTES
        assert total <= sum(len(encode(filters, each).content) for filters in made) + each.code_bytes + shared
    for code, filters in zip(c99.fastest(made), made, strict=True):
        np.testing.assert_array_equal(decoded(code, *filters.shape), filters)


def cut(program: Program, seed: int) -> list[Stream]:
    """Return the program in streams as they fall."""
    random, found = Random(seed), list[Stream]()
    while not found or found[-1].last + 1 < len(program.layers):
        first = found[-1].last + 1 if found else 0
        made = (stream(program, first, last) for last in range(first, min(len(program.layers), first + 9)))
        found.append(random.choice([each for each in made if each is not None][-3:]))
    return found


@given(st.integers(0, 2**32), st.integers(0, 12))
def test_streams_of_rows_never_lose_a_byte(seed: int, layers: int) -> None:
    program = lower(chain(seed, layers))
    for pieces in range(3):
        found = _laid_out(program, cut(program, pieces))
        Memory(program, found).run()
        assert found.arena_bytes <= together(program)


@pytest.mark.parametrize("seed", range(20))
def test_the_best_plan_never_loses_a_byte(seed: int) -> None:
    program = lower(chain(1000 + seed, 7))
    found = plan(program)
    Memory(program, found).run()
    assert found.arena_bytes <= together(program)
    alone = [stream(program, at, at) for at in range(len(program.layers))]
    assert found.arena_bytes <= _laid_out(program, [each for each in alone if each is not None]).arena_bytes


def test_the_follower_of_memory_sees_what_is_lost() -> None:
    draft = Draft((1, 16, 8, 4))
    first = draft.conv(draft.input, 4)
    last = draft.conv(first, 4)
    program = lower(draft.file(last))
    found = _laid_out(program, [each for each in [stream(program, 0, 1)] if each is not None])
    ring = program.maps[program.layers[0].output].storage
    assert found.rows == {ring: 3}  # a window's
    Memory(program, found).run()
    for wrong in (
        found._replace(rows={ring: 2}),
        found._replace(offsets={**found.offsets, ring: found.offsets[program.maps[program.inputs[0]].storage]}),
        found._replace(offsets=dict.fromkeys(found.offsets, 0)),
        found._replace(arena_bytes=found.arena_bytes - 8),
    ):
        with pytest.raises((AssertionError, ValueError)):
            Memory(program, wrong).run()


def test_plans_by_hand() -> None:
    draft = Draft((1, 1, 24, 4))
    made = draft.unary("RELU", draft.unary("TANH", draft.input, (1 / 128, 0)))
    assert plan(lower(draft.file(made))).arena_bytes == 96  # each in the place of the one before
    draft = Draft((1, 20, 8, 4))
    made = draft.pool(draft.input, "MAX_POOL_2D", (2, 2), (2, 2))
    assert plan(lower(draft.file(made))).arena_bytes == 656  # a row begins 16 bytes before those it is made of


def test_a_map_that_is_read_in_two_shapes_stays_until_both_are_done() -> None:
    draft = Draft((1, 8, 16, 4))
    tall = draft.reshape(draft.input, (1, 16, 8, 4))
    high = draft.pool(tall, "MAX_POOL_2D", (9, 1), (2, 1), same=True)  # lags behind, a row of it being half as long
    wide = draft.unary("RELU", draft.input, draft.grid(tall))
    program = lower(draft.file(draft.concat([wide, high], 2)))
    Memory(program, plan(program)).run()
    Memory(program, _laid_out(program, [each for each in [stream(program, 0, 2)] if each is not None])).run()


@given(st.floats(2.0**-31, 2.0**31) | st.floats(0.4999, 0.5001) | st.floats(1e-12, 1e-6))
def test_a_factor_is_the_nearest_in_31_bits(real: float) -> None:
    multiplier, shift = factor(real)
    if shift == multiplier == 0:
        assert real < 2.0**-32
        return
    assert 2**30 <= multiplier < 2**31
    exact = Fraction(real) * Fraction(2) ** (31 - shift)
    assert floor(exact + Fraction(1, 2)) == multiplier


def test_factors_by_hand() -> None:
    assert factor(0) == factor(2.0**-33) == (0, 0)
    assert factor(0.5) == (2**30, 0)
    assert factor(1) == factor(1 - 2.0**-40) == (2**30, 1)  # what rounds up to 2^31 goes to the next power
    assert factor(2.0**-32) == (2**30, -31)
    assert factor(0.75 / 1024) == (3 * 2**29, -10)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(2**30, 2**31 - 1), st.integers(-31, 30))
def test_scaled_rounds_the_product_up_and_the_shift_away_from_zero(value: int, multiplier: int, shift: int) -> None:
    value >>= max(shift, 0)  # what is shifted to the left stays within 32 bits
    product = floor(Fraction(value << max(shift, 0)) * multiplier / 2**31 + Fraction(1, 2))
    parts = Fraction(product, 2 ** max(-shift, 0))
    nearest = floor(abs(parts) + Fraction(1, 2))
    assert scaled(np.int64(value), Factor(multiplier, shift)) == (nearest if parts >= 0 else -nearest)


def test_scaled_by_hand() -> None:
    half = Factor(2**30, 0)
    assert scaled(np.array([3, 1, -1, -3, 4]), half).tolist() == [2, 1, 0, -1, 2]  # halves upwards
    eighth = Factor(2**30, -2)
    assert scaled(np.array([8, 4, 3, -4, -12]), eighth).tolist() == [1, 1, 1, -1, -2]  # 4 is 2 is a half, away from 0
    assert scaled(np.array([3, -3]), Factor(2**30, 3)).tolist() == [12, -12]


def test_clipping_by_hand() -> None:
    assert clipping(0, Affine(0.1, 3)) == (-128, 127)
    assert clipping(1, Affine(0.1, 3)) == (3, 127)
    assert clipping(2, Affine(0.25, 3)) == (-1, 7)
    assert clipping(3, Affine(0.1, -128)) == (-128, -68)
    assert clipping(3, Affine(4.0, 0)) == (0, 2)  # 1.5 steps, halves away from zero
    assert clipping(2, Affine(2.0, 0)) == (-1, 1)
    assert clipping(3, Affine(1e-40, 5)) == (5, 127)
    with pytest.raises(ValueError, match="a fused activation of kind 4"):
        clipping(4, Affine(0.1, 3))


@given(st.floats(1e-3, 40), st.floats(0.05, 4))
def test_exponentials_are_those_of_mathematics_as_far_as_they_matter(scale: float, beta: float) -> None:
    found = exponentials(scale, beta)
    wanted = [exp(-beta * scale * steps) for steps in range(256)]
    assert 1 <= len(found) <= 256
    np.testing.assert_allclose(np.array(found) / 2**31, wanted[: len(found)], atol=2e-7)
    assert all(value < 2e-7 for value in wanted[len(found) :])
    assert found[0] == 2**31 - 1
