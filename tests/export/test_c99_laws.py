"""Laws of the C export: codes give weights back, plans never lose a byte, numbers are those of plain arithmetic."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
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
from fedprune.export.c99.encoding import ENCODINGS, PATTERNS, Code, Encoding, code_bytes, encode
from fedprune.export.c99.exponentials import exponentials
from fedprune.export.c99.numbers import Factor, clipping, factor, scaled
from fedprune.export.c99.plan import _laid_out, plan
from fedprune.export.c99.program import Program
from fedprune.export.c99.rules import lower
from fedprune.export.c99.streams import Stream, stream
from fedprune.export.litert import Affine
from fedprune.pruning.patterns import n_of_m

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


def places(kept: int, width: int, byte: Byte, row: np.ndarray, place: int) -> int:
    bits = 2 if width == 4 else 4
    number = sum(byte() << 8 * at for at in range(bits // 2))
    for at in range(4):
        row[place + at // kept * width + (number >> bits * at) % width] = signed(byte())
    return place + 4 // kept * width


DECODERS: dict[str, Callable[[Byte, np.ndarray, int], int]] = {
    each.__name__: each for each in (dense, gap4, gap5, gap8, bitmap)
}
DECODERS |= {each.name: partial(places, each.kept, each.width) for each in PATTERNS}


def decoded(code: Code, filters: int, weights: int) -> np.ndarray:
    """Return the filters of a code, decoded as the comments of the kernels say; every segment is one that they bear."""
    content = iter(code.content)
    found = np.zeros((filters, weights + 64), np.int64)
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
        # what is read past the end: a pair, a triple, or none of a unit's groups
        assert place <= weights + 2 or code.encoding.name == "bitmap" or code.encoding.kept
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


KERNELS = ("conv", "linear", "wide")
ENCODING = {each.name: each for each in ENCODINGS}


def thinned(filters: np.ndarray, encoding: Encoding) -> np.ndarray:
    """The filters, of every group as many weights as an encoding of patterns tells of."""
    if not encoding.kept:
        return filters
    padded = np.pad(filters, ((0, 0), (0, -filters.shape[1] % encoding.width)))
    groups = padded.reshape(len(filters), -1, encoding.width)
    before = np.cumsum(groups != 0, 2)
    return np.where(before <= encoding.kept, groups, 0).reshape(padded.shape)[:, : filters.shape[1]]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda each: each.name)
@given(filters=layers())
@example(filters=np.zeros((3, 1), np.int8))
@example(filters=np.full((2, 600), -128, np.int8))
@example(filters=np.pad(np.int8([[127]]), ((0, 1), (599, 0))))
@example(filters=np.tile(np.int8([[1] + [0] * 16]), (1, 30)))
def test_a_code_gives_its_weights_back(encoding: Encoding, filters: np.ndarray) -> None:
    filters = thinned(filters, encoding)
    code = encode(filters, encoding)
    np.testing.assert_array_equal(decoded(code, *filters.shape), filters)
    fits = 128 * np.abs(filters.astype(np.int64)).sum(1).max() < 2**22
    assert code.segments == 1 or not fits or filters.shape[1] > 255


@st.composite
def patterned(draw: st.DrawFn) -> np.ndarray:
    """Filters of a pattern."""
    return thinned(draw(layers()), draw(st.sampled_from(PATTERNS)))


def test_codes_by_hand() -> None:
    filters = np.int8([[0, 5, 0, 0, -1], [0] * 5])
    wanted = {
        "dense": [3, 0, 5, 0, 0, 255, 0, 3, 0, 0, 0, 0, 0, 0],
        "gap4": [1, 0x21, 5, 255, 0],
        "gap5": [1, 1 + 2 * 32, 0, 5, 255, 0, 0],
        "gap8": [2, 1, 5, 2, 255, 0],
        "bitmap": [1, 0b01001000, 5, 255, 1, 0],
    }
    assert {name: [*encode(filters, each).content] for name, each in ENCODING.items() if not each.kept} == wanted
    far = np.zeros((1, 20), np.int8)
    far[0, 18] = 7
    content = {name: [*encode(far, ENCODING[name]).content] for name in ("gap4", "gap5")}
    assert content["gap4"] == [1, 0x2F, 0, 7]  # fifteen zeros, one as a weight, two more
    assert content["gap5"] == [1, 18, 0, 7, 0, 0]


def test_codes_of_patterns_by_hand() -> None:
    # of 18 weights in groups of four, of which the last has two: the second of the first, the last of the second,
    # none of the third, the first of the fourth, the second of the fifth
    one = np.zeros((1, 18), np.int8)
    one[0, [1, 7, 12, 17]] = 5, -1, 9, 7
    four = [0b00_00_11_01, 5, 255, 0, 9]
    assert [*encode(one, ENCODING["1of4"]).content] == [2, *four, 0b00_00_00_01, 7, 0, 0, 0]
    # two a group, in rising order: 1 and 3, then 2 with a zero before it, whose place is the first that is free
    two = np.int8([[0, 5, 0, -1, 0, 0, 9, 0]])
    assert [*encode(two, ENCODING["2of4"]).content] == [1, 0b10_00_11_01, 5, 255, 0, 9]
    wide = np.zeros((2, 64), np.int8)
    wide[0, [13, 16, 47, 50]] = 1, 2, 3, 4
    assert [*encode(wide, ENCODING["1of16"]).content] == [1, 0x0D, 0x2F, 1, 2, 3, 4, 1, 0, 0, 0, 0, 0, 0]


def test_what_is_of_no_pattern_is_not_written_as_one() -> None:
    within = np.int8([[0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]])
    assert [each.name for each in PATTERNS if each.holds(within)] == ["1of4", "2of4"]
    across = np.roll(within, 3, 1)  # 2, 4 and 7: two are in the second group of four, none in the third
    assert [each.name for each in PATTERNS if each.holds(across)] == ["2of4"]
    assert not any(each.holds(np.ones((2, 3), np.int8)) for each in PATTERNS)
    for choose in (c99.smallest, c99.fastest):  # every fifth weight, and of eighths
        every = np.tile(np.int8([1, 0, 0, 0, 0]), (32, 100))
        assert not any(code.encoding.kept for code in choose([every, random_pattern(1, 8)], ["conv", "conv"]))


def random_pattern(kept: int, width: int, shape: tuple[int, int] = (32, 576)) -> np.ndarray:
    random = np.random.default_rng(kept * width)
    levels = random.integers(1, 128, shape) * random.choice([-1, 1], shape)
    return np.where(n_of_m(random.random(shape), kept, width), levels, 0).astype(np.int8)


@pytest.mark.parametrize(
    ("pattern", "names", "bytes_each"),
    [
        # how the smallest, the fastest of windows and the fastest of one position are written, and bytes a weight
        ((1, 4), ("1of4", "1of4", "dense"), 1.25), ((2, 4), ("bitmap", "2of4", "dense"), 1.25),
        ((1, 8), ("gap4", "gap5", "gap5"), 1.5), ((2, 8), ("bitmap", "gap5", "dense"), 1.5),
        ((1, 16), ("1of16", "gap5", "1of16"), 1.5),
    ],
)  # fmt: skip
def test_patterns_are_written_by_place_where_that_is_better(
    pattern: tuple[int, int], names: tuple[str, ...], bytes_each: float
) -> None:
    filters = random_pattern(*pattern)
    (smallest,), (fastest,) = c99.smallest([filters], ["conv"]), c99.fastest([filters], ["conv"])
    (linear,) = c99.fastest([filters], ["linear"])
    assert tuple(code.encoding.name for code in (smallest, fastest, linear)) == names
    assert len(smallest.content) <= bytes_each * np.count_nonzero(filters) + len(filters)


@given(st.lists(layers() | patterned(), min_size=1, max_size=4), st.lists(st.sampled_from(KERNELS), min_size=4))
def test_the_smallest_codes_take_no_more_than_one_for_all(made: list[np.ndarray], kernels: list[str]) -> None:
    kernels = kernels[: len(made)]
    chosen = c99.smallest(made, kernels)
    for code, filters in zip(chosen, made, strict=True):
        np.testing.assert_array_equal(decoded(code, *filters.shape), filters)

    def total(codes: list[Code]) -> int:
        return sum(len(code.content) for code in codes) + code_bytes(codes, kernels)

    for each in ENCODINGS:
        if all(map(each.holds, made)):
            assert total(chosen) <= total([encode(filters, each) for filters in made])
    for code, filters in zip(c99.fastest(made, kernels), made, strict=True):
        np.testing.assert_array_equal(decoded(code, *filters.shape), filters)


def test_what_a_decoder_takes_is_counted_by_kernel() -> None:
    filters = np.tile(np.int8([1, 0, 1, 1, 0, 1, 1, 1, 0, 1]), (4, 5))
    # of 200 weights 140: 204 bytes, or 30 or so fewer as a bitmap, where a tile and conv take 64 more than dense
    chosen = [c99.smallest([filters], [kernel])[0].encoding.name for kernel in KERNELS]
    assert chosen == ["dense", "bitmap", "bitmap"]


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
