"""flower-supernode that asks for work more often for a while after it has worked, and keeps its app imported.

Flower 1.41 asks every three seconds, which is most of a round where a device is done in less. A device that has just
answered asks again soon; one that idles is as quiet as Flower's. And it starts Python for each message, which imports
for seconds: see ``superexec`` and ``warm``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

from fedprune.deployment.parent import end_with_parent

_QUICK_S, _TIMES = 0.5, 12
_REPLY_S = 0.1
_IDLE_S = 3.0
"""How long Flower waits where there was no message; shorter waits are those for a reply of its own app."""


class Pace:
    """Waits instead of ``time.sleep``: for a reply of its own app a tenth of a second at a time."""

    def __init__(self) -> None:
        """As after a long quiet."""
        self._left = 0

    def sleep(self, seconds: float) -> None:
        """Wait so long, or for a while after work only half a second."""
        if seconds < _IDLE_S:
            self._left, seconds = _TIMES, min(seconds, _REPLY_S)
        elif self._left:
            self._left -= 1
            seconds = _QUICK_S
        time.sleep(seconds)


def _started(words: list[str], **how: Any) -> subprocess.Popen[bytes]:
    """Flower's own command, or in place of its flower-superexec the one that keeps a device's app imported."""
    own = [sys.executable, "-m", "fedprune.deployment.device.superexec"]
    return subprocess.Popen([*own, *words[1:]] if words[0] == "flower-superexec" else words, **how)


class _OfOneRun:
    """Flower's state of a device, of which replies are those of one run alone."""

    def __init__(self, state: Any, run_id: int) -> None:
        """All else is as ``state`` has it."""
        self._state, self._run_id = state, run_id

    def __getattr__(self, name: str) -> Any:
        """Whatever ``state`` has."""
        return getattr(self._state, name)

    def get_messages_legacy(self, *, is_reply: bool) -> Any:
        """Those of the run."""
        return self._state.get_messages_legacy(run_ids=[self._run_id], is_reply=is_reply)


def answering(client: Any) -> None:
    """Let ``flwr.supernode.start_client_internal`` wait for the reply to what it was asked last.

    Flower 1.41 waits for any. Where a run is stopped while a message arrives, the reply to that comes all the same, and
    is taken for the next one's: from then on each reply is sent only when something else is asked, so that a device
    that takes part in a run once more seems to be away for good.
    """
    pull, push, run_id = client._pull_and_store_message, client._push_messages, 0

    def pulled(**how: Any) -> Any:
        nonlocal run_id
        found = pull(**how)
        run_id = found if found is not None else run_id
        return found

    def pushed(*, state: Any, object_store: Any, **how: Any) -> None:
        push(state=_OfOneRun(state, run_id), object_store=object_store, **how)
        for late in state.get_messages_legacy(is_reply=True):  # of runs that nobody waits for
            state.delete_messages(message_ids=[late.metadata.message_id, late.metadata.reply_to_message_id])
            object_store.delete(late.metadata.message_id)

    client._pull_and_store_message, client._push_messages = pulled, pushed


def main() -> None:
    """flower-supernode with its own arguments."""
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode

    # without these a round takes longer, and nothing else changes
    if hasattr(start_client_internal, "time"):
        start_client_internal.time = SimpleNamespace(**{**vars(time), "sleep": Pace().sleep})
    if hasattr(start_client_internal, "subprocess"):
        start_client_internal.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": _started})
    if hasattr(start_client_internal, "_pull_and_store_message") and hasattr(start_client_internal, "_push_messages"):
        answering(start_client_internal)
    end_with_parent()
    sys.argv[0] = "flower-supernode"
    flower_supernode()


if __name__ == "__main__":
    main()
