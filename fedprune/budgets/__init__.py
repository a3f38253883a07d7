"""What a model costs, counted from its graph, and what a device has, measured on it; the two are never mixed."""

from fedprune.budgets.arena import arena_bytes
from fedprune.budgets.compute import macs, seconds, sparse_macs
from fedprune.budgets.memory import Extra, Memory, extra_of, training_memory
from fedprune.budgets.profile import RUNTIME_BYTES, Profile, measure, memory_bytes
from fedprune.budgets.storage import smallest, stored_bytes

__all__ = [
    "RUNTIME_BYTES",
    "Extra",
    "Memory",
    "Profile",
    "arena_bytes",
    "extra_of",
    "macs",
    "measure",
    "memory_bytes",
    "seconds",
    "smallest",
    "sparse_macs",
    "stored_bytes",
    "training_memory",
]
