"""What C++ code writes to standard error, past Python's own: caught as text."""

import os
import tempfile
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def caught(action: Callable[[], Result]) -> tuple[Result, str]:
    """Return what ``action`` returns, and what it wrote to file descriptor 2 meanwhile, which nobody else sees."""
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            result = action()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        return result, file.read().decode(errors="replace")
