"""Code of a user's own: what its dotted name stands for, and what it raises, in one line with its own file and line."""

from __future__ import annotations

import importlib
import inspect
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

_HERE = Path(__file__).parent
_STDLIB = {Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")}
_INSTALLED = {"site-packages", "dist-packages"}
_MOST_LETTERS = 300


def imported(name: str) -> Any:
    """Return what "package.module:attribute" stands for.

    Raises whatever the module raises while it is imported, AttributeError for what it has not, ImportError or
    ValueError for a name that is none.
    """
    module, _, attribute = name.partition(":")
    if module.endswith(".py"):
        named = module.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise ImportError(f'name the module, not its file: "{named}:{attribute}"')
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module}.".startswith(f"{error.name}."):
            raise  # one that it imports
        raise ModuleNotFoundError(f"{error}; is it installed, or its folder on PYTHONPATH?", name=error.name) from None


def raised(error: BaseException, name: str = "") -> str:
    """Return ``error`` in one line: where the user's own code raised it, as far as any has, its type and its words.

    ``name`` is the dotted name by which the code was found: modules of its package are the user's own wherever they are
    installed. Of the library's own errors the words alone are said.
    """
    return f"{place(error, name)}{words(error)}"


def words(error: BaseException) -> str:
    """Return the first line of what an error says, with its type unless that is the library's or says itself."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."
    kind = type(error).__name__
    if isinstance(error, SyntaxError):
        return f"{kind}: {error.msg}"
    if text and (isinstance(error, ImportError) or type(error).__module__.startswith("fedprune.")):
        return text
    return f"{kind}: {text}".removesuffix(": ")


def place(error: BaseException, name: str = "") -> str:
    """Return "mine.py, line 9, in load: ", the innermost line of the user's own that led to ``error``; "" for none."""
    if isinstance(error, SyntaxError) and error.filename and _own(error.filename, "", name):
        return f"{_shown(error.filename)}, line {error.lineno}: "
    for file, line, function, module in reversed([*_frames(error.__traceback__)]):
        if _own(file, module, name):
            return f"{_shown(file)}, line {line}, in {function}: "
    return ""


def misfit(function: Any, **arguments: object) -> str:
    """Return why ``function`` cannot be called with these keywords, with its file and line; "" where it can be."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin may not tell
        return ""
    try:
        signature.bind(**arguments)
    except TypeError as error:
        called = getattr(function, "__name__", type(function).__name__)
        return f"{defined(function)}{called}{signature}: {error}; it is called with {', '.join(arguments)}"
    return ""


def defined(function: Any) -> str:
    """Return "mine.py, line 9: ", where a function or class begins; "" where it is no Python of a file."""
    plain = inspect.unwrap(function)
    try:
        file, (_, line) = inspect.getsourcefile(plain), inspect.getsourcelines(plain)
    except (OSError, TypeError):
        return ""
    return f"{_shown(file)}, line {line}: " if file else ""


def _frames(trace: TracebackType | None) -> Iterator[tuple[str, int, str, str]]:
    while trace is not None:
        code = trace.tb_frame.f_code
        yield code.co_filename, trace.tb_lineno, code.co_name, str(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next


def _own(file: str, module: str, name: str) -> bool:
    """Whether a file is neither the library's, nor Python's, nor an installed package's but that of ``name``."""
    path = Path(file)
    if file.startswith("<") or path.is_relative_to(_HERE):
        return False
    root = name.partition(":")[0].partition(".")[0]
    if root and module.partition(".")[0] == root:
        return True
    return not (_INSTALLED & {*path.parts} or any(path.is_relative_to(folder) for folder in _STDLIB))


def _shown(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
