"""What every benchmark shares: a figure with its target, and results/NAME.json with the machine and the versions."""

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

RESULTS = Path(__file__).resolve().parents[2] / "results"


@dataclass(frozen=True)
class Figure:
    """One measured number, what it should reach, and what others reach in the same run."""

    value: float
    unit: str
    better: Literal["higher", "lower"]
    target: float | None = None
    against: Mapping[str, float] = field(default_factory=dict)
    """Peer -> its value, in the same unit."""


def write(name: str, figures: Mapping[str, Figure], command: str, packages: Iterable[str] = ()) -> Path:
    """Writes results/``name``.json and returns its path.

    ``command`` is what reproduces it; ``packages`` are those whose versions matter besides Python's and numpy's.
    """
    versions = {"python": platform.python_version()}
    for package in ("numpy", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    content = {
        "figures": {key: asdict(figure) for key, figure in figures.items()},
        "machine": machine(),
        "versions": versions,
        "command": command,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def machine() -> dict[str, str | int]:
    """Processor, cores this process may use, system: what a speed depends on, and nothing that names the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cpu": _processor(), "cores": cores, "system": f"{platform.system()} {platform.machine()}"}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            # "Model" on boards with an ARM processor, which name no model of the core.
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
