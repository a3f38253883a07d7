"""Models in TensorFlow Lite Micro: without their zeros, run, and what they take."""

from fedprune.export.tflm.decode import flash_bytes
from fedprune.export.tflm.interpreter import arena_bytes, levels, run
from fedprune.export.tflm.operators import operators
from fedprune.export.tflm.sparse import decoded, pack_sparse, sram_bytes, write_sparse

__all__ = [
    "arena_bytes",
    "decoded",
    "flash_bytes",
    "levels",
    "operators",
    "pack_sparse",
    "run",
    "sram_bytes",
    "write_sparse",
]
