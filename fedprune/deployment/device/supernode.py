"""flower-supernode that asks for work more often for a while after it has worked.

Flower 1.41 asks every three seconds, which is most of a round where a device is done in less. A device that has just
answered asks again soon; one that idles is as quiet as Flower's.
"""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

from fedprune.deployment.parent import end_with_parent

_QUICK_S, _TIMES = 0.5, 12
_IDLE_S = 3.0
"""How long Flower waits where there was no message; shorter waits are those for a reply of its own app."""


class Pace:
    """Waits instead of ``time.sleep``."""

    def __init__(self) -> None:
        """As after a long quiet."""
        self._left = 0

    def sleep(self, seconds: float) -> None:
        """Wait so long, or for a while after work only half a second."""
        if seconds < _IDLE_S:
            self._left = _TIMES
        elif self._left:
            self._left -= 1
            seconds = _QUICK_S
        time.sleep(seconds)


def main() -> None:
    """flower-supernode with its own arguments."""
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    if hasattr(start_client_internal, "time"):  # without it a round takes longer, and nothing else changes
        start_client_internal.time = SimpleNamespace(**{**vars(time), "sleep": Pace().sleep})
    end_with_parent()
    sys.argv[0] = "flower-supernode"
    flower_supernode()


if __name__ == "__main__":
    main()
