"""Plugins of QEMU that count instructions, compiled for whichever version of its interface an emulator has."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

_VERSIONS = (1, 2, 3, 4)
"""Of the interface; an emulator takes some of them, and what is used of it is the same in all."""


def counting(source: str, folder: Path, counts: Path) -> Iterator[tuple[str, str]]:
    """Compile a plugin, such as ``_classes.c``, into ``folder``; yield an emulator's options until some are taken.

    The plugin writes the file ``counts``.
    """
    for version in _VERSIONS:
        plugin = folder / f"count{version}.so"
        path = Path(__file__).with_name(source)
        build = ("cc", "-shared", "-fPIC", "-O2", f"-DVERSION={version}", str(path), "-o", str(plugin))
        subprocess.run(build, check=True)
        yield "-plugin", f"{plugin},counts={counts}"
