"""A bad link between a device and the server: real TCP over frames that come late, are lost, or are cut off.

Kernels without the qdisc netem cannot spoil a link, so a relay in userspace does.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from simulations.benchmarks.soak import pieces
from simulations.benchmarks.soak.outcome import Failed, Hazard, Outcome, skipped
from simulations.benchmarks.soak.stage import SHORT, Actor, Stage, last_line

_DELAY_S, _LOSS = 0.1, 0.02
_CUT_S = 60.0
_SLOW = (*SHORT, "deadline_s=200")


def _possible() -> str:
    """Why no bad link can be made here; "" where one can."""
    if sys.platform != "linux" or not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    if os.geteuid():
        return "network namespaces and TAP devices want root"
    missing = [tool for tool in ("ip", "nsenter") if shutil.which(tool) is None]
    return f"{missing[0]} is not installed" if missing else ""


class _Link:
    """A relay that runs."""

    def __init__(self, actor: Actor, host: str, cut: Path) -> None:
        self.actor, self.host, self.cut = actor, host, cut

    def inside(self) -> Sequence[str]:
        """Words before a command that is to run at the device's end."""
        return ["nsenter", f"--net=/proc/{self.actor.process.pid}/ns/net"]

    def frames(self) -> str:
        """Ends the relay; the frames that it saw."""
        self.actor.process.terminate()
        self.actor.process.wait(10)
        return last_line(self.actor.text())


@contextmanager
def _link(folder: Path, environment: dict[str, str], number: int) -> Iterator[_Link]:
    host, device = (f"198.18.77.{4 * number + 1}", f"198.18.77.{4 * number + 2}")
    cut = folder / "cut"
    words = [sys.executable, str(Path(__file__).with_name("_relay.py")), f"soak{number}", host, device]
    relay = Actor([*words, str(_DELAY_S), str(_LOSS), str(cut)], environment, folder / "relay.log")
    until = time.monotonic() + 20
    while "up" not in relay.text():
        if relay.process.poll() is not None or time.monotonic() > until:
            raise Failed(f"the relay does not start: {last_line(relay.text())}")
        time.sleep(0.1)
    try:
        yield _Link(relay, host, cut)
    finally:
        relay.kill()


def bad(number: int, folder: Path, *, cut_s: float = 0.0) -> Outcome:
    """A device behind 200 ms and 2 % loss throughout a run; and, with ``cut_s``, behind nothing for so long."""
    if why := _possible():
        return skipped(why)
    marker = {**os.environ, "FEDPRUNE_SOAK": f"{folder}/relay"}
    with _link(folder, marker, number) as link, Stage(folder, host=link.host, settings=_SLOW) as stage:
        stage.serve()
        far = stage.join("kitchen", before=link.inside())
        stage.join("attic")
        run = stage.run()
        if cut_s:
            stage.training(far)
            link.cut.touch()
            time.sleep(cut_s)
            link.cut.unlink()
        started = time.monotonic()
        stage.finish(run)
        seconds = time.monotonic() - started
        if "Receiving" not in far.text():
            raise Failed("the device behind the link got no message")
        result = stage.same(f"went on to its end, {seconds:.0f} s after " + ("the cut" if cut_s else "its start"))
        retries = far.text().count("Connection attempt failed")
        return result._replace(seen=f"{result.seen}; {link.frames()}; {retries} attempts to connect failed")


HAZARDS = {
    "bad_link": Hazard("a device behind 200 ms and 2 % of packets lost", functools.partial(bad, 1), 1200, pieces.link),
    "cut_link": Hazard(
        "a device's link is cut for 60 s while it trains", functools.partial(bad, 2, cut_s=_CUT_S), 1200
    ),
}
