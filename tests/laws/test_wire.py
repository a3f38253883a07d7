"""Laws of the wire: what goes in comes out, near the entropy bound, and no bytes crash a receiver."""

import math
import tracemalloc
from collections.abc import Callable

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from fedprune.counter_rng import generator, uniforms
from fedprune.pruning.patterns import n_of_m
from fedprune.wire import WireError, decode, decode_mask, encode, encode_mask, opened, seed_mask

TYPES = ["?", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
CAP = 1 << 20


def random_mask(size: int, density: float, seed: int = 0) -> np.ndarray:
    return uniforms(seed, "mask", size) < density


def entropy_bytes(mask: np.ndarray) -> float:
    p = np.count_nonzero(mask) / mask.size
    return 0.0 if p in (0, 1) else -mask.size * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit, so that NaN and −0 count."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    """Any type and shape, any bits (NaN payloads, −0), mostly with zeros in between."""
    dtype, shape = np.dtype(draw(st.sampled_from(TYPES))), draw(SHAPES)
    size = math.prod(shape)
    if dtype == np.bool_:
        return draw(hnp.arrays(bool, shape))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    bits = np.frombuffer(rng.bytes(size * dtype.itemsize), dtype).copy()
    bits[rng.random(size) < draw(st.sampled_from([0, 0.5, 0.95, 1]))] = 0
    if dtype.kind == "f":
        bits[rng.random(size) < 0.1] = -0.0
    return bits.reshape(shape)


@given(hnp.arrays(bool, SHAPES))
def test_any_mask_returns(mask: np.ndarray) -> None:
    back = decode_mask(encode_mask(mask), mask.shape)
    assert same(back, mask)
    assert back.flags.writeable


@settings(deadline=None)
@given(hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=40), st.data())
def test_patterns_travel_at_their_own_entropy(shape: tuple[int, ...], data: st.DataObject) -> None:
    m = data.draw(st.integers(2, 16))
    n = data.draw(st.integers(1, m - 1))
    mask = n_of_m(uniforms(data.draw(st.integers(0, 99)), "scores", shape), n, m)
    message = encode_mask(mask)
    assert same(decode_mask(message, shape), mask)
    groups = math.prod(shape) // shape[1] * -(-shape[1] // m)
    if shape[1] >= m:
        # of all, 3:13 wastes the most, seven choices of 8.16 bits in a word of 64
        assert len(message) <= 1.13 * groups * math.log2(math.comb(m, n)) / 8 + 10


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 8), (1, 16), (8, 16), (3, 13)])
@pytest.mark.parametrize("inputs", [416, 17])
def test_a_pattern_is_read_within_what_it_is_reckoned_with(n: int, m: int, inputs: int) -> None:
    mask = n_of_m(uniforms(0, "scores", (100_000 // inputs, inputs)), n, m)
    message = encode_mask(mask)
    decode_mask(message, mask.shape)  # tables are kept
    tracemalloc.start()
    decode_mask(message, mask.shape)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken <= (5 if inputs % 16 == 0 else 16) * mask.size
    if message[0] == 8:
        with pytest.raises(WireError, match="exceeds"):
            decode_mask(message, mask.shape, 16 * mask.size - 1)


@pytest.mark.parametrize(("n", "m", "saved"), [(2, 4, 0.33), (1, 8, 0.3), (1, 16, 0.25)])
def test_a_pattern_takes_less_than_its_density(n: int, m: int, saved: float) -> None:
    mask = n_of_m(uniforms(0, "scores", (64, 64, 3, 3)), n, m)
    assert len(encode_mask(mask)) < (1 - saved) * entropy_bytes(mask)


def test_a_pattern_that_says_nonsense_is_an_error() -> None:
    rows = np.array([[*map(int, "110001101")]] * 20, bool)
    good = encode_mask(rows)
    for wrong, said in {
        good[:-1]: "bytes for 60 choices",
        good + b"\0": "bytes for 60 choices",
        good[:2] + bytes([216]) + good[3:]: "more than its choices",  # 6³
        good[:2] + bytes([5 * 36 + 12]) + good[3:]: "outside",  # the ninth's filling is 0011
        good[:1] + b"\x33" + good[2:]: "no 4:4 mask",
        good[:1] + b"\x1f" + good[2:]: "no 2:16 mask",
    }.items():
        with pytest.raises(WireError, match=said):
            decode_mask(wrong, rows.shape)
    with pytest.raises(WireError, match="no 2:4 mask"):
        decode_mask(good, (180,))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60_000), st.floats(0, 1), st.integers(0, 2**32), st.sampled_from([1, 7, 64]))
def test_large_masks_return_random_or_clustered(size: int, density: float, seed: int, run: int) -> None:
    mask = np.repeat(random_mask(size // run + 1, density**3, seed), run)[:size]
    for each in (mask, ~mask):
        data = encode_mask(each)
        assert same(decode_mask(data, each.shape), each)
        assert len(data) <= 1 + -(-size // 8)


def test_non_contiguous_masks_return() -> None:
    mask = random_mask(4000, 0.1).reshape(40, 100)
    assert same(decode_mask(encode_mask(mask.T), (100, 40)), np.ascontiguousarray(mask.T))


@pytest.mark.parametrize("size", [200_000, 1_000_000])
@pytest.mark.parametrize("density", [0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.38, 0.45, 0.5, 0.7, 0.99])
def test_large_masks_are_within_two_per_cent_of_the_entropy_bound(size: int, density: float) -> None:
    mask = random_mask(size, density)
    data = encode_mask(mask)
    assert same(decode_mask(data, mask.shape), mask)
    assert len(data) <= 1.02 * entropy_bytes(mask)


@given(
    st.integers(0, 2**64 - 1), st.integers(1, 3000), st.floats(0, 1), st.sampled_from(["a", "layer4.1.conv2.weight"])
)
def test_a_seeded_mask_travels_as_its_seed(seed: int, size: int, density: float, name: str) -> None:
    kept = int(density * size)
    mask = seed_mask(seed, name, (size,), kept)
    assert np.count_nonzero(mask) == kept
    data = encode_mask(mask, seed=(seed, name))
    assert len(data) < 64
    assert same(decode_mask(data, mask.shape), mask)
    other = ~mask
    assert same(decode_mask(encode_mask(other, seed=(seed, name)), mask.shape), other)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), tensors(), max_size=4))
def test_any_tensors_return_bit_for_bit(named: dict[str, np.ndarray]) -> None:
    back = decode(encode(named))
    assert list(back) == list(named)
    for name, tensor in named.items():
        assert same(back[name], tensor)
        assert back[name].flags.writeable


@settings(deadline=None)
@given(tensors(), st.integers(0, 99))
def test_under_a_known_mask_only_its_values_travel(tensor: np.ndarray, seed: int) -> None:
    mask = generator(seed).random(tensor.shape) < 0.3
    kept = np.where(mask, tensor, np.zeros((), tensor.dtype))
    data = encode({"w": kept}, known={"w": mask})
    assert same(decode(data, known={"w": mask})["w"], kept)
    if tensor.dtype != np.bool_:
        assert len(data) <= 40 + np.count_nonzero(mask) * tensor.itemsize
    if np.count_nonzero(tensor[~mask]):
        with pytest.raises(WireError, match=r"outside the known mask.*: w"):
            encode({"w": tensor}, known={"w": mask})


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), tensors(), max_size=4), st.integers(0, 99), st.sampled_from([0.02, 0.5]))
def test_a_message_that_is_opened_gives_what_decoding_gives(
    named: dict[str, np.ndarray], seed: int, density: float
) -> None:
    """In every form, as often as it is asked for, under masks that are themselves opened."""
    masks = {n: generator(seed, n).random(named[n].shape) < density for n in [*named][::2]}
    masks["seeded"] = seed_mask(seed, "seeded", (90,), 4)
    kept = {n: np.where(masks[n], t, np.zeros((), t.dtype)) if n in masks else t for n, t in named.items()}
    sent, known = encode(masks, seeds={"seeded": (seed, "seeded")}), {n: masks[n] for n in masks if n in named}
    data = encode(kept, known)
    both = opened(sent)
    for lazy, right in ((both, decode(sent)), (opened(data, both), decode(data, known))):
        assert list(lazy) == list(right)
        for name, tensor in right.items():
            assert same(lazy[name], tensor)
            lazy[name][...] = 1  # an asker's own
            assert same(lazy[name], tensor)


def test_a_large_message_that_is_opened_takes_little() -> None:
    masks = {name: random_mask(2**20, density, ord(name)) for name, density in (("a", 0.01), ("b", 0.3))}
    named = {name: mask * np.float32(1.5) for name, mask in masks.items()}
    sent, data = encode(masks), encode(named, masks)
    alone = encode({"c": named["a"]})
    tracemalloc.start()
    both = opened(sent)
    kept = [both, opened(data, both), opened(alone)]
    took, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept
    assert took < 2 * 4 * 0.0101 * 2**20 + 2**17 + 2**14  # positions, twice; a bit a position; names
    assert peak < 2 * 2**20 * 8  # of one mask, which takes a tenth of the most that decoding it may


def test_known_masks_must_be_the_same_on_both_sides() -> None:
    mask = random_mask(100, 0.4)
    data = encode({"w": mask * 2.0}, known={"w": mask})
    for wrong in ({}, {"w": ~mask}, {"w": mask[:-1]}, {"w": np.roll(mask, 1)}, {"w": mask.astype(np.uint8)}):
        with pytest.raises(WireError, match=r"under .*: 'w'"):
            decode(data, known=wrong)
    with pytest.raises(WireError, match="known mask"):
        encode({"w": np.zeros(3)}, known={"w": mask})


def test_sparse_tensors_take_their_sparse_size() -> None:
    mask = random_mask(50_000, 0.05)
    values = np.where(mask, uniforms(0, "v", mask.size) + 1, 0).astype(np.float32)
    assert len(encode({"w": values})) < 1.03 * (entropy_bytes(mask) + 4 * np.count_nonzero(mask))


def test_other_byte_orders_and_types() -> None:
    swapped = np.arange(5, dtype=">f4")
    assert same(decode(encode({"w": swapped}))["w"], swapped.astype(np.float32))
    for dtype in (np.complex64, object, "U3", "M8[s]"):
        with pytest.raises(WireError, match=r"cannot travel: w"):
            encode({"w": np.zeros(2, dtype)})
    with pytest.raises(WireError, match="boolean"):
        encode_mask(np.zeros(2))
    with pytest.raises(WireError, match="outside"):
        encode_mask(random_mask(1000, 0.5), seed=(-1, "m"))


# One of each form, entropy-coded or not.
MESSAGES = [
    encode(
        {
            "a": np.arange(20.0),
            "m": random_mask(3000, 0.02),
            "b": random_mask(30_000, 0.38),
            "d": random_mask(30_000, 0.05),
            "s": np.eye(9),
            "p": n_of_m(uniforms(0, "p", (30, 20)), 2, 8),
        }
    ),
    encode({"k": random_mask(500, 0.5) * 1, "c": np.int8(3)}, known={"k": random_mask(500, 0.5)}),
    encode({"r": seed_mask(3, "r", (900,), 80)}, seeds={"r": (3, "r")}),
]


def complaint(read: Callable[[], object]) -> str:
    """What a WireError says, "" where nothing was wrong; any other error is a crash."""
    try:
        read()
    except WireError as error:
        return str(error)
    return ""


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_messages_never_crash(data: st.DataObject) -> None:
    message = bytearray(data.draw(st.sampled_from(MESSAGES)))
    for _ in range(data.draw(st.integers(0, 3))):
        # Every other flip falls in the first bytes, where the counts are.
        last = min(data.draw(st.sampled_from([30, 10_000])), len(message) - 1)
        message[data.draw(st.integers(0, last))] ^= 1 << data.draw(st.integers(0, 7))
    cut = message[: data.draw(st.integers(0, len(message)))]
    for damaged in (message, cut, cut + b"\0"):
        said = complaint(lambda d=damaged: decode(bytes(d), {"k": random_mask(500, 0.5)}, max_bytes=CAP))
        assert "\n" not in said
        assert complaint(lambda d=damaged: opened(bytes(d), {"k": random_mask(500, 0.5)}, max_bytes=CAP)) == said


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 255), st.sampled_from([0, 1, 8, 300, 70_000]))
def test_random_bytes_never_crash(data: bytes, first: int, size: int) -> None:
    for shape in ((size,), (size // 8, 8)):
        assert "\n" not in complaint(lambda shape=shape: decode_mask(bytes([first]) + data, shape, CAP))
    assert "\n" not in complaint(lambda: decode(b"\1" + data, max_bytes=CAP))


@pytest.mark.parametrize("density", [0.01, 0.3])
def test_a_truncated_or_longer_mask_is_an_error(density: float) -> None:
    data = encode_mask(random_mask(60_000, density))
    for wrong in (data[:-1], data[:-2], data + b"\0", data + b"\0\0", b""):
        with pytest.raises(WireError, match=r"truncated|malformed"):
            decode_mask(wrong, (60_000,))


def test_declared_sizes_are_checked_before_allocating() -> None:
    full = b"\1"
    with pytest.raises(WireError, match="exceeds"):
        decode_mask(full, (2**31, 2))
    with pytest.raises(WireError, match="exceeds"):
        decode(encode({"w": np.zeros(1000)}), max_bytes=7999)
    # float64 (2⁶⁰, 0): nothing to store, but no array of this shape exists.
    with pytest.raises(WireError, match="exceeds"):
        decode(b"\1\1\1w\x0b\2" + b"\x80" * 8 + b"\x10" + b"\0" + b"\0")


def test_an_unknown_version_is_named() -> None:
    with pytest.raises(WireError, match="version 9"):
        decode(b"\x09" + encode({})[1:])


def test_a_name_cannot_occur_twice() -> None:
    one = encode({"w": np.zeros(3)})[2:]
    with pytest.raises(WireError, match="twice"):
        decode(b"\1\2" + one + one)


@given(st.integers(0, 2**70), st.text(max_size=9), st.integers(0, 50), st.integers(0, 50))
def test_streams_are_prefixes_of_themselves_and_differ_by_name(seed: int, name: str, a: int, b: int) -> None:
    short, long = uniforms(seed, name, a), uniforms(seed, name, a + b)
    assert np.array_equal(short, long[:a])
    assert ((long >= 0) & (long < 1)).all()
    if a:
        assert not np.array_equal(short, uniforms(seed, name + "x", a))
        assert not np.array_equal(short, uniforms(seed + 1, name, a))
        assert generator(seed, name, "x").random() != generator(seed, name + "x").random()


def test_uniforms_are_uniform() -> None:
    values = uniforms(5, "u", (100, 1000))
    assert values.shape == (100, 1000)
    counts = np.bincount((values * 20).astype(int).reshape(-1), minlength=20)
    assert abs(counts - 5000).max() < 5 * 5000**0.5
