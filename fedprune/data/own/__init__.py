"""A device's own recordings: what is read from its folder, and what becomes of it."""

from fedprune.data.own.parting import counts, part_of, parts
from fedprune.data.own.reading import read, shape_of, stamp
from fedprune.data.own.recorded import Recorded

__all__ = ["Recorded", "counts", "part_of", "parts", "read", "shape_of", "stamp"]
