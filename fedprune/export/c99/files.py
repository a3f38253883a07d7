"""Where the C files of this package lie."""

import re
import sys
from pathlib import Path

_HERE = Path(__file__).parent


def folder(name: str) -> Path:
    """Return the folder of this package's ``kernels``, ``firmware`` or ``sounds``.

    A Flower bundle carries no C files: where this copy of the package came in one, they are taken from the package as
    it is installed. Raises ``RuntimeError`` where they are nowhere.
    """
    inside = _HERE.relative_to(_HERE.parents[2])
    places = (Path(root, inside, name) for root in (str(_HERE.parents[2]), *sys.path))
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise RuntimeError(
            f"{_HERE / name} is not there: this copy of fedprune came without C files; install the package"
        )
    return found


def kernel(name: str) -> str:
    """Return the text of a kernel's file.

    ``wide_KIND`` is ``linear_KIND`` for vectors of int16, and ``tile_NofM`` and ``linear_NofM`` are ``tile_places`` and
    ``linear_places`` for groups of M columns of which N are kept.
    """
    if name.startswith("wide_"):
        kind = "linear" + name.removeprefix("wide")
        return kernel(kind).replace(kind, name).replace("const int8_t *", "const int16_t *")
    pattern = re.fullmatch(r"(\w+)_(\d+)of(\d+)", name)
    if pattern is None:
        return (folder("kernels") / f"{name}.c").read_text("utf-8")
    kind, kept, width = pattern.groups()
    text = (folder("kernels") / f"{kind}_places.c").read_text("utf-8").replace(f"{kind}_places", name)
    return text.replace("KEPT", kept).replace("WIDTH", width).replace("BITS", str(int(width).bit_length() - 1))
