"""Modules of Flower's without what they import and a device's processes never use: databases, a web server."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

_EMPTY = ("flwr.supernode.cli", "flwr.supercore.cli")
"""Packages whose own code does nothing but import all that is in them."""
_SERVER = "flwr.supercore.error.http"
"""How a server answers what goes wrong."""


def attribute(module: str, name: str) -> Any:
    """What a module of Flower's has by this name, where nothing of Flower's is imported yet: in 50 MB less.

    What is left out stays out of this process. Where Flower wants more of it, all is imported as Flower does.
    """
    left_out = {**{each: _empty(each) for each in _EMPTY}, "fastapi": _statuses(), _SERVER: _errors()}
    ours = {each: left for each, left in left_out.items() if each not in sys.modules}
    sys.modules.update(ours)
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        for each in ours:
            del sys.modules[each]
        return getattr(importlib.import_module(module), name)


def _empty(package: str) -> ModuleType:
    top, *below = package.split(".")
    spec = find_spec(top)  # which imports nothing, as that of a package within would
    module = ModuleType(package)
    module.__path__ = [str(Path(where, *below)) for where in (spec and spec.submodule_search_locations) or ()]
    return module


def _statuses() -> ModuleType:
    """The only part of it that Flower's table of errors reads."""
    module = ModuleType("fastapi")
    vars(module)["status"] = importlib.import_module("starlette.status")
    return module


def _errors() -> ModuleType:
    module = ModuleType(_SERVER)
    vars(module).update(BearerAuthenticationError=Exception, http_error_translator=None)
    return module
