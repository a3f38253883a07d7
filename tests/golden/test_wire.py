"""Golden bytes of the wire: small messages worked by hand, larger ones frozen, so that the format stays readable."""

import hashlib

import numpy as np
import pytest

from fedprune.counter_rng import uniforms
from fedprune.wire import decode, decode_mask, encode, encode_mask, seed_mask


def marked(size: int, *places: int) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[list(places)] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(5, bool), "00"),
        (np.zeros(0, bool), "00"),
        (np.ones((2, 3), bool), "01"),
        # form 2; 1011 0000, 1 and seven bits of padding
        (np.array([1, 0, 1, 1, 0, 0, 0, 0, 1], bool), "02 b0 80"),
        # p = 1/32, so 4 low bits: form 4 + 8 · 4; 2 gaps, 5 = 0·16 + 0101₂ and 34 = 2·16 + 0010₂;
        # planes of the low bits from the lowest: 10 01 10 00; unary parts: 1 001, padded
        (marked(64, 5, 40), "24 02 98 90"),
        # the same gaps of False: form 5
        (~marked(64, 5, 40), "25 02 98 90"),
        # 1:4, so form 8, then 4 − 1 | 0 << 4; of fours with one the first is choice 0; 2 bits each, from the lowest:
        # 1 2 0 3, 3 3 0 0
        (np.array([[*map(int, "0100001010000001")], [*map(int, "0001000110001000")]], bool), "08 03 c9 0f"),
        # 2:4 in rows of nine; the ninth alone is filled up to 1100. Of 1100 1010 0110 1001 0101 0011 choices 0 2 0, in
        # base 6 three to a byte: 0 + 2 · 6 + 0 · 36
        (np.array([[*map(int, "110001101")]] * 20, bool), "08 13" + "0c" * 20),
    ],
)
def test_masks_worked_by_hand(mask: np.ndarray, message: str) -> None:
    assert encode_mask(mask) == bytes.fromhex(message)
    assert np.array_equal(decode_mask(bytes.fromhex(message), mask.shape), mask)


def test_a_container_worked_by_hand() -> None:
    tensors = {"w": np.array([1, -1], np.int8), "m": np.array([[True, False]]), "s": np.float16(-0.0)}
    message = bytes.fromhex(
        "01 03"  # version, tensors
        "01 77 01 01 02 02 01 ff"  # name, int8 dense, one dimension of 2, two bytes
        "01 6d 00 02 01 02 02 02 80"  # name, bool dense, 1 × 2, two bytes: bitmap 10
        "01 73 09 00 02 00 80"  # name, float16 dense, no dimension, two bytes: −0
    )
    assert encode(tensors) == message
    back = decode(message)
    assert [back[name].tobytes() for name in tensors] == [tensors[name].tobytes() for name in tensors]


def test_sparse_known_and_seeded_tensors_worked_by_hand() -> None:
    values = marked(64, 5, 40) * np.uint16(258)
    # uint16 sparse, 64 positions, 9 bytes: mask code of 4, values 258
    assert encode({"w": values}) == bytes.fromhex("01 01 01 77 16 01 40 09 04 24029890 0201 0201")
    known = {"w": np.array([True, False, True])}
    # int8 known, CRC-32 of the byte 1010 0000
    message = bytes.fromhex("01 01 01 77 21 01 03 06 654cd404 07 09")
    assert encode({"w": np.array([7, 0, 9], np.int8)}, known) == message
    mask = seed_mask(7, "r", (900,), 300)
    # bool dense, 900 positions (varint 84 07), 6 bytes: seed 7, "r", 300 kept (varint ac 02)
    message = bytes.fromhex("01 01 01 72 00 01 8407 06 03 07 01 72 ac02")
    assert encode({"r": mask}, seeds={"r": (7, "r")}) == message
    assert hashlib.blake2b(np.packbits(mask), digest_size=8).hexdigest() == "bc60df0e941d4e33"


# form 4, inverted, coded, 1 low bit; 42 gaps; low bits; 130 unary bits, 1 lane; state; words
FROZEN = "0f 2a 294a5294a500 8201 01 85ebc50f 04ec29eb5359b358e857e157"


def test_entropy_coded_gaps_are_frozen() -> None:
    cube = np.arange(240) ** 3
    assert np.array_equal(decode_mask(bytes.fromhex(FROZEN), (240,)), cube % 29 >= 5)


@pytest.mark.parametrize(
    ("density", "begins", "digest"),
    [
        (0.38, "068d3ca09c010747", "6de76438b2ddb125"),
        (0.12, "148213721f54c843", "eddeb7b23111e0d1"),
        (0.88, "159e1363e4c52a8c", "ca29d392fc0e5965"),
    ],
)
def test_larger_masks_are_frozen(density: float, begins: str, digest: str) -> None:
    i = np.arange(20_000, dtype=np.int64)
    data = encode_mask((i**3 * 7919 + i * i * 104_729) % 10_007 < density * 10_007)
    assert data[:8].hex() == begins
    assert hashlib.blake2b(data, digest_size=8).hexdigest() == digest


def test_streams_are_frozen() -> None:
    assert (uniforms(0, "w", 3) * 2**53).tolist() == [7982523693334182, 4783398085961699, 4821347066719596]
    assert (uniforms(7, "layer1.weight", 2) * 2**53).tolist() == [3376906153643802, 5323294058063412]
