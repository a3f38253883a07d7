"""flower-superexec of a device, which has apps forked by a process that has them imported, and asks more often."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

from fedprune.deployment.device import flower
from fedprune.deployment.device.warm import Warm

APP = [sys.executable, "-m", "fedprune.deployment.device.clientapp"]
"""Flower's flwr-clientapp, in less memory."""
_QUICK_S, _TIMES = 0.1, 100
_IDLE_S = 1.0
"""How long Flower waits between two questions for a message."""


class Launcher:
    """Starts and waits, instead of ``subprocess`` and ``time``: as they do, where a warm process cannot do better."""

    def __init__(self, warm: Warm) -> None:
        """As after a long quiet."""
        self._warm, self._left = warm, 0

    def start(self, words: list[str], **how: Any) -> None:
        """Start a command of Flower's."""
        self._left = _TIMES  # the next message may follow soon
        if words[0] != "flwr-clientapp":
            subprocess.Popen(words, **how)
        elif not self._warm.launch(words[1:]):
            subprocess.Popen([*APP, *words[1:]], **how)

    def sleep(self, seconds: float) -> None:
        """Wait so long, or for a while after a message only a tenth of a second."""
        if seconds >= _IDLE_S and self._left:
            self._left -= 1
            seconds = _QUICK_S
        time.sleep(seconds)


def main() -> None:
    """flower-superexec with its own arguments."""
    flower_superexec = flower.attribute("flwr.supercore.cli.flower_superexec", "flower_superexec")
    from flwr.supercore.superexec import run_superexec
    from flwr.supercore.superexec.executor import subprocess_executor

    launcher = Launcher(Warm())
    vars(subprocess_executor)["subprocess"] = SimpleNamespace(**{**vars(subprocess), "Popen": launcher.start})
    vars(run_superexec)["time"] = SimpleNamespace(**{**vars(time), "sleep": launcher.sleep})
    sys.argv[0] = "flower-superexec"
    flower_superexec()


if __name__ == "__main__":
    main()
