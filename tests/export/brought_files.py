"""Small .tflite files as people bring them: ends of floats and of bytes, several of them."""

import numpy as np
from c99_files import Draft

from fedprune.export.litert.flatbuffer import File, FileTensor, pack


def classifier(draft: Draft, source: int) -> int:
    """Add a small classifier behind a map, and return its scores."""
    last = draft.conv(source, 4, density=1)
    scores = draft.linear(draft.reshape(last, (1, draft.tensors[last].shape[1] ** 2 * 4)), 3, single=True)
    return draft.unary("SOFTMAX", scores, (1 / 256, -128), beta=1.0)


def float_ends() -> bytes:
    draft = Draft((1, 8, 8, 1))
    draft.tensors[draft.input] = FileTensor((1, 8, 8, 1), np.dtype(np.float32))
    inner = draft.add("QUANTIZE", (draft.input,), draft.activation((1, 8, 8, 1), (0.05, -3)))
    scores = classifier(draft, inner)
    draft.tensors.append(FileTensor((1, 3), np.dtype(np.float32)))
    return draft.file(draft.add("DEQUANTIZE", (scores,), len(draft.tensors) - 1, 2))


def byte_ends(zero: int = 128, scale: float = 0.05) -> bytes:
    draft = Draft((1, 8, 8, 1))
    grid = np.array([scale], np.float32)
    draft.tensors[draft.input] = FileTensor((1, 8, 8, 1), np.dtype(np.uint8), None, grid, zero)
    inner = draft.add("QUANTIZE", (draft.input,), draft.activation((1, 8, 8, 1), (0.05, 0)))
    scores = classifier(draft, inner)
    return draft.file(draft.add("QUANTIZE", (scores,), draft.activation((1, 3), (1 / 256, 0), np.uint8)))


def two_ends() -> bytes:
    draft = Draft((1, 4, 4, 2))
    other = draft.activation((1, 8, 3), (0.07, 5))
    added = draft.both("ADD", draft.input, draft.input)
    last = draft.conv(added, 3)
    second = draft.linear(other, 5)
    return pack(File(draft.tensors, draft.operators, (draft.input, other), (last, second)))
