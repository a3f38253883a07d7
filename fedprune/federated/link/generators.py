"""Libraries whose threads draw from Python's own generator get one of theirs: that one is for what a net draws."""

from __future__ import annotations

import random
import sys

_MODULES = (
    "flwr.supercore.heartbeat", "ray._private.node", "ray._private.gcs_pubsub", "ray._private.external_storage",
)  # fmt: skip


def keep_apart() -> None:
    """Give those of these libraries that are loaded a generator of their own, in place of the module ``random``.

    Else a heartbeat, or Ray while it starts, would move what a net draws in between.
    """
    for name in _MODULES:
        module = sys.modules.get(name)
        if module is not None and getattr(module, "random", None) is random:
            vars(module)["random"] = random.Random()
