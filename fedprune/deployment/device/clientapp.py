"""flwr-clientapp of a device: Flower's own, in less memory."""

from __future__ import annotations

from collections.abc import Callable

from fedprune.deployment.device import flower


def command() -> Callable[[], None]:
    """Flower's command, with all that it needs imported."""
    found: Callable[[], None] = flower.attribute("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp")
    return found


if __name__ == "__main__":
    command()()
