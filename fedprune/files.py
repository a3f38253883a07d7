"""Writing a file whole or not at all, and removing it, never through a link that lies where it should be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file by ``data`` in one step, on disk before the name points to it. A link there is replaced too.

    OSError, with the file's name, where it cannot be: then it is as it was.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)  # of a process that was killed, or a link
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)  # where the disk is full, it must not be fuller after each try
        error.filename = str(path)
        raise


def remove(path: Path) -> None:
    """Remove a file, a folder with what is in it, or a link alone; where there is nothing, nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
