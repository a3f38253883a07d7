"""A device whose clock is wrong: it works or is turned away, and is told why; the others go on."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from simulations.benchmarks.soak.outcome import FAILED, HELD, Hazard, Outcome, rows, skipped
from simulations.benchmarks.soak.stage import Stage, last_line

_SETTINGS = ("data.devices=3", "least_replies=0.6", "rounds=1", "evaluate_every=1")
_OFFSETS_S = {"ahead": 3600, "behind": -3600}


def wrong(way: str, folder: Path) -> Outcome:
    """One of three devices is an hour ahead, or behind, throughout a run that can do with two."""
    if (compiler := shutil.which("cc")) is None:
        return skipped("no C compiler for the library that shifts a program's clock (Debian: apt install gcc)")
    library = folder / "clock.so"
    source = Path(__file__).with_name("_clock.c")
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], capture_output=True, text=True
    )
    if made.returncode:
        return skipped(f"no library that shifts a program's clock: {last_line(made.stderr)}")
    shifted = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_S": str(_OFFSETS_S[way])}
    with Stage(folder, ("kitchen", "attic", "cellar"), settings=_SETTINGS) as stage:
        stage.serve()
        for name in ("kitchen", "attic"):
            stage.join(name)
        odd = stage.join("cellar", environment=shifted)
        stage.finish(stage.run())
        lines = [line for line in odd.text().splitlines() if "clock" in line]
        devices = [row["devices"] for row in rows(stage.out) if "devices" in row]
        happened = f"went on to its end with {min(devices)} to {max(devices)} of 3 devices"
        if "Sent successfully" in odd.text():
            return Outcome(happened, "nothing: the device takes part", stage.operator_sees(), HELD)
        if not lines:
            why = f"on the device, not that it is the clock, but: {last_line(odd.text())}"
            return Outcome(happened, "that device's part", f"{why}; {stage.operator_sees()}", FAILED)
        return Outcome(
            happened, "that device's part", f"on the device: {lines[-1]}; on the server: {stage.operator_sees()}", HELD
        )


HAZARDS = {
    f"clock_{way}": Hazard(f"a device's clock is an hour {way}", functools.partial(wrong, way), 1200)
    for way in _OFFSETS_S
}
