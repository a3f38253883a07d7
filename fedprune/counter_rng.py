"""Counter-based randomness: the same numbers on every machine, for each seed and name.

Two sides that must agree (a mask drawn anew from its seed, a direction of perturbation) use ``uniforms``, which reads
Philox's raw stream: integers and one exact product, so no version of numpy or of the C library changes a bit of it.
One side alone (the order of batches, the sampling of devices) uses ``generator``, whose methods numpy may revise.
"""

import hashlib
import math

import numpy as np
import numpy.typing as npt


def uniforms(seed: int, name: str, size: int | tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) of shape ``size``, multiples of 2⁻⁵³, bit for bit the same on every machine.

    Each (seed, name) has its own stream, and a longer draw begins with the shorter one.
    """
    shape = (size,) if isinstance(size, int) else size
    raw = _stream(seed, name).random_raw(math.prod(shape))
    # 53 bits fit a float64 exactly, and a power of two scales it exactly: no rounding anywhere.
    values = (raw >> np.uint64(11)).astype(np.float64)
    values *= 2.0**-53
    return values.reshape(shape)


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy Generator of its own for each (seed, names); for draws that only one side makes.

    A name counts by its text: 1 and "1" are the same.
    """
    return np.random.Generator(_stream(seed, *names))


def number(seed: int, *names: str | int) -> int:
    """A number in [0, 2⁶⁴) of its own for each (seed, names), as in ``generator``; the same on every machine."""
    return int.from_bytes(_digest(seed, *names)[:8], "little")


def _stream(seed: int, *names: str | int) -> np.random.Philox:
    return np.random.Philox(key=np.frombuffer(_digest(seed, *names), dtype="<u8").astype(np.uint64))


def _digest(*parts: str | int) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        text = str(part).encode()
        # The length first, so that ("ab", "c") and ("a", "bc") differ.
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.digest()
