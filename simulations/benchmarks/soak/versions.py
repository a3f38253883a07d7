"""A device whose software is older: it is named and left out, and the others go on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from simulations.benchmarks.soak import pieces
from simulations.benchmarks.soak.outcome import FAILED, HELD, Failed, Hazard, Outcome, rows
from simulations.benchmarks.soak.stage import ROOT, Stage

_SETTINGS = ("data.devices=3", "least_replies=0.6", "rounds=1", "evaluate_every=1")
_OLD = "0.0.1"


def old(folder: Path) -> Outcome:
    """One of three devices has another version of fedprune, in a run that can do with two."""
    with Stage(folder, ("kitchen", "attic", "cellar"), settings=_SETTINGS) as stage:
        stage.serve()
        for name in ("kitchen", "attic"):
            stage.join(name)
        stage.join("cellar", environment={"PYTHONPATH": str(_copy(folder / "old"))})
        stage.finish(stage.run())
        found = rows(stage.out)
        devices = [row["devices"] for row in found if "devices" in row]
        seen = stage.operator_sees()
        happened = f"went on to its end with {min(devices)} to {max(devices)} of 3 devices"
        named = f"fedprune {_OLD}" in str(found)
        if max(devices) > 2:
            raise Failed(f"the device of version {_OLD} takes part")
        return Outcome(happened, "that device's part", seen, HELD if named else FAILED)


def _copy(to: Path) -> Path:
    """The folder of a copy of the package that says another version of itself."""
    shutil.copytree(ROOT / "fedprune", to / "fedprune", ignore=shutil.ignore_patterns("__pycache__"))
    init = to / "fedprune" / "__init__.py"
    text, times = re.subn(r'__version__ = "[^"]*"', f'__version__ = "{_OLD}"', init.read_text())
    if times != 1:
        raise Failed(f"{init}: no version to change")
    init.write_text(text)
    return to


HAZARDS = {"old_device": Hazard("a device runs another version of fedprune", old, 1200, pieces.version)}
