"""Models run for aarch64 on another computer, under emulation: what a phone or a 64-bit Raspberry Pi would compute."""

import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedprune.export.litert.runtime import Latency, Measured, measured

_SUITE, _PYTHON = "bookworm", "3.11"  # a Debian and its Python, for which the runtime has wheels
_PACKAGES = f"python{_PYTHON}-minimal,libpython{_PYTHON}-stdlib,libstdc++6"
_WHEELS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
_TOOLS = {"qemu-aarch64": "qemu-user", "mmdebstrap": "mmdebstrap"}
_SITE = "site"

# What the runtime asks of the system to choose its kernels, here one Cortex-A72, a Raspberry Pi 4's: the emulator would
# show it this computer's.
_CPUINFO = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
"""
_SYSTEM: Mapping[str, str] = {
    "proc/cpuinfo": _CPUINFO,
    **{f"sys/devices/system/cpu/{name}": "0\n" for name in ("possible", "present", "online", "kernel_max")},
}


def missing() -> str | None:
    """Return None if models can be emulated here, or one line that says what to install."""
    if root().is_dir():
        lacking = [] if shutil.which("qemu-aarch64") else ["qemu-aarch64"]
    else:
        lacking = [program for program in _TOOLS if not shutil.which(program)]
        if not lacking and find_spec("pip") is None:
            return "aarch64 needs pip in this Python, to fetch the runtime"
    if not lacking:
        return None
    return f"aarch64 needs {', '.join(lacking)}. On Debian: apt install {' '.join(_TOOLS[each] for each in lacking)}"


def root() -> Path:
    """Return the directory of the emulated system, which `prepare` makes; each version of the runtime has its own."""
    from fedprune.data.cache import cache_directory

    return cache_directory() / f"aarch64-litert-{_version() or 'newest'}"


def prepare() -> Path:
    """Return `root`, made first where it is not there: a Debian with Python, numpy and the runtime.

    It takes 180 MB, and a minute of downloads, once. Raises ``RuntimeError`` where a tool is missing or a
    download fails; nothing half-made stays.
    """
    place = root()
    if place.is_dir():
        return place
    if lacking := missing():
        raise RuntimeError(lacking)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="aarch64-") as name:
        made = Path(name) / "root"
        extract = ("--arch=arm64", "--variant=extract", f"--include={_PACKAGES}", _SUITE, str(made))
        _done(("mmdebstrap", "--quiet", *extract), "the emulated Debian cannot be made")
        platforms = (f"--platform={wheel}" for wheel in _WHEELS)
        pinned = f"ai-edge-litert=={_version()}" if _version() else "ai-edge-litert"
        fetch = ("--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={_PYTHON}", "--no-compile")
        target = ("--target", str(made / _SITE), pinned, "numpy<3")
        command = (sys.executable, "-m", "pip", "install", *fetch, *platforms, *target)
        _done(command, "the runtime for aarch64 cannot be fetched")
        for path, content in _SYSTEM.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(content)
        if not place.is_dir():  # another process may have made it meanwhile
            made.rename(place)
    return place


def latency_ms(model: bytes, *, runs: int = 10) -> Latency:
    """Return the latency of a model on an emulated Cortex-A72, in milliseconds of this computer; see `emulated`."""
    return emulated([model], runs=runs)[0].latency


def emulated(models: Sequence[bytes], *, runs: int = 10) -> list[Measured]:
    """Return what `runtime.measured` gives on an emulated Cortex-A72.

    Times are this computer's, a hundred times a phone's: of use only beside each other, in one call. Sums of floats
    cost an emulator more than all else, and more where zeros are among them. It knows no caches.

    Raises ``RuntimeError`` as `prepare`, and for a model that does not run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for position, model in enumerate(models):
            (folder / f"{position}.tflite").write_bytes(model)
        run(("-m", "fedprune.export.litert.aarch64", name, str(len(models)), str(runs)))
        with np.load(folder / "measured.npz") as found:
            latencies = [Latency(*found[f"latency{position}"].tolist()) for position in range(len(models))]
            return [Measured(latency, found[f"output{at}"]) for at, latency in enumerate(latencies)]


def run(arguments: Sequence[str], options: Sequence[str] = ()) -> None:
    """Run the emulated Python with ``arguments``, and the emulator with ``options``; raises ``RuntimeError``."""
    place = prepare()
    if lacking := missing():
        raise RuntimeError(lacking)
    python = str(place / "usr" / "bin" / f"python{_PYTHON}")
    emulator = ("qemu-aarch64", *options, "-L", str(place), "-cpu", "cortex-a72", python, "-s")
    _done((*emulator, *arguments), "the model does not run on aarch64", _paths(place))


def _inside(folder: Path, count: int, runs: int) -> None:
    """Measure on the emulated side."""
    models = [(folder / f"{position}.tflite").read_bytes() for position in range(count)]
    found = measured(models, runs=runs)
    arrays: dict[str, Any] = {f"output{at}": each.output for at, each in enumerate(found)}
    arrays |= {f"latency{at}": np.array(each.latency) for at, each in enumerate(found)}
    np.savez(folder / "measured.npz", **arrays)


def _paths(place: Path) -> dict[str, str]:
    # This package alone: beside it may lie libraries for this computer's processor.
    package = Path(__file__).resolve().parents[2]
    alone = place / f"package-{zlib.crc32(str(package).encode()):08x}"
    alone.mkdir(exist_ok=True)
    if not (alone / package.name).is_symlink():
        (alone / package.name).symlink_to(package)
    # Compiled once, in a place of their own: the emulator would have new directories made in this computer's /usr.
    found = {"PYTHONHOME": "/usr", "PYTHONPATH": f"/{_SITE}:{alone}", "PYTHONPYCACHEPREFIX": str(place / "compiled")}
    return {**found, "PYTHONSAFEPATH": "1", "PYTHONHASHSEED": "0"}


def _version() -> str | None:
    try:
        return metadata.version("ai-edge-litert")
    except metadata.PackageNotFoundError:
        return None


def _done(command: tuple[str, ...], failure: str, paths: Mapping[str, str] | None = None) -> None:
    # The emulator hands this computer's environment on: its libraries are not those of the other processor.
    foreign = ("PYTHON",) if paths is None else ("PYTHON", "LD_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)} | dict(paths or {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise RuntimeError(f"{failure}: {said[-1].strip()}")


if __name__ == "__main__":
    _inside(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
