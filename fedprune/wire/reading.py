"""Bytes that came from elsewhere, read in order, and what messages are made of: integers, names, bits."""

import numpy as np
import numpy.typing as npt

from fedprune.types import BoolTensor


class WireError(ValueError):
    """Bytes that are no message, or tensors that cannot be sent."""


class Reader:
    """A cursor over received bytes; reading past the end raises WireError."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes, uncopied."""
        if count > len(self._data) - self._at:
            raise WireError(f"truncated: {count} bytes wanted at {self._at} of {len(self._data)}")
        self._at += count
        return self._data[self._at - count : self._at]

    def rest(self) -> memoryview:
        """All bytes that are left, uncopied."""
        return self.take(len(self._data) - self._at)

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        """An unsigned integer below 2⁶⁴."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                break
        if byte >= 128 or value >> 64:
            raise WireError("malformed: an integer of more than 64 bits")
        return value

    def text(self) -> str:
        """A string, its length in bytes first."""
        try:
            return str(self.take(self.varint()), "utf-8")
        except UnicodeDecodeError as error:
            raise WireError(f"malformed: a name is not UTF-8 ({error.reason})") from None

    def end(self) -> None:
        """Raises WireError where bytes are left."""
        if self._at < len(self._data):
            raise WireError(f"malformed: {len(self._data) - self._at} bytes too many")


def varint(value: int) -> bytes:
    """LEB128 of an unsigned integer; raises WireError outside [0, 2⁶⁴)."""
    if not 0 <= value < 2**64:
        raise WireError(f"{value} is outside [0, 2^64)")
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def text(value: str) -> bytes:
    """UTF-8, its length in bytes first."""
    encoded = value.encode()
    return varint(len(encoded)) + encoded


def unpack(data: memoryview | npt.NDArray[np.uint8], count: int) -> BoolTensor:
    """The first ``count`` bits, the highest of a byte first."""
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).view(np.bool_)
