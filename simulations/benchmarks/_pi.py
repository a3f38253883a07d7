"""A Raspberry Pi's system under emulation: Debian bookworm for aarch64 in a folder, on an emulated Cortex-A72."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from importlib.util import cache_from_source
from pathlib import Path

from fedprune.data.cache import cache_directory
from fedprune.export.litert.aarch64 import _SYSTEM

_SUITE, _PACKAGES = "bookworm", "python3,python3-venv,libstdc++6,ca-certificates"
_HOME, _VENV = "home/pi", "env"
_TOOLS = ("qemu-user", "mmdebstrap", "proot")
_PROGRAMS = ("qemu-aarch64", "mmdebstrap", "proot")
# Where the downloads of this computer's pip come from, and how they are trusted.
_HANDED_ON = ("PIP_INDEX_URL", "PIP_CERT", "PIP_DEFAULT_TIMEOUT", "HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE")


def missing() -> str | None:
    """Return None if the system can be emulated here, or one line that says what to install."""
    lacking = [tool for tool, program in zip(_TOOLS, _PROGRAMS, strict=True) if not shutil.which(program)]
    return f"an emulated Raspberry Pi needs {', '.join(lacking)}: apt install {' '.join(lacking)}" if lacking else None


def root() -> Path:
    """Return the folder of the emulated system, which `prepare` makes."""
    return cache_directory() / f"raspberry-pi-{_SUITE}"


def home() -> Path:
    """Return the home of the user there, as this computer sees it."""
    return root() / _HOME


def venv() -> Path:
    """Return the virtual environment there."""
    return home() / _VENV


def site() -> Path:
    """Return the packages of the virtual environment there."""
    return venv() / "lib" / "python3.11" / "site-packages"


def prepare() -> None:
    """Make a fresh Debian with Python and nothing else, where there is none; nothing half-made stays.

    Raises ``subprocess.CalledProcessError``.
    """
    place = root()
    if place.is_dir():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="raspberry-pi-") as name:
        made = Path(name) / "root"
        extract = ("--arch=arm64", "--variant=extract", f"--include={_PACKAGES}", _SUITE, str(made))
        subprocess.run(("mmdebstrap", "--quiet", *extract), check=True)
        for folder in (_HOME, "proc", "sys"):
            (made / folder).mkdir(parents=True, exist_ok=True)
        for path, content in _SYSTEM.items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_text(content)
        midr = made / "sys" / "devices" / "system" / "cpu" / "cpu0" / "regs" / "identification" / "midr_el1"
        midr.parent.mkdir(parents=True)
        midr.write_text("0x00000000410fd083\n")  # a Cortex-A72's
        (made / "proc" / "cpuinfo").rename(made / "etc" / "cpuinfo")  # laid over this computer's
        made.rename(place)


def run(words: Sequence[str], environment: Sequence[str] = (), shown: Sequence[Path] = ()) -> str:
    """Run a command as the user there would, in the virtual environment where it has that program; return its output.

    ``shown`` are folders of this computer that it sees in its home, under their own names. Raises ``RuntimeError``
    with what the command said.
    """
    program = venv() / "bin" / words[0]
    start = f"/{_HOME}/{_VENV}/bin/{words[0]}" if program.exists() else f"/usr/bin/{words[0]}"
    cpu, etc = "qemu-aarch64 -cpu cortex-a72", str(root() / "etc" / "cpuinfo")
    certificates = os.environ.get("PIP_CERT") or "/etc/ssl/certs"
    seen = ["/dev", "/proc", "/etc/resolv.conf", f"{etc}:/proc/cpuinfo", certificates]
    seen += [f"{folder}:/{_HOME}/{folder.name}" for folder in shown]
    bound = [word for each in seen for word in ("-b", each)]
    handed_on = [f"{key}={os.environ[key]}" for key in _HANDED_ON if key in os.environ]
    plain = ("PATH=/usr/bin:/bin", f"HOME=/{_HOME}", "LANG=C.UTF-8", "COLUMNS=110", "PIP_DISABLE_PIP_VERSION_CHECK=1")
    inside = ("env", "-i", *plain, *handed_on, *environment)
    command = (*inside, shutil.which("proot") or "proot", "-q", cpu, "-r", str(root()), *bound, "-w", f"/{_HOME}")
    # proot 5.1 does not translate one of the calls that ask whether a file may be read: hence the folder.
    done = subprocess.run((*command, start, *words[1:]), cwd=home(), capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def compile_all() -> None:
    """Compile the packages as pip would have: with this computer's Python where it is of the same version."""
    if sys.version_info[:2] == (3, 11):
        # 1 is for files that no Python compiles, of which packages have some
        quiet = ("-qq", "-s", str(root()), str(site()))
        subprocess.run((sys.executable, "-m", "compileall", *quiet), check=False, stdout=subprocess.DEVNULL)
    else:
        run(("python", "-m", "compileall", "-qq", f"/{site().relative_to(root())}"))


def sizes() -> dict[str, int]:
    """Return package -> bytes of its files, their compiled form included, largest first."""
    found = {}
    for package in metadata.distributions(path=[str(site())]):
        files = {Path(str(each.locate())) for each in package.files or []}
        files |= {Path(cache_from_source(str(path))) for path in files if path.suffix == ".py"}
        name = package.metadata["Name"].lower().replace("_", "-").replace(".", "-")
        found[name] = sum(path.stat().st_size for path in files if path.is_file())
    return dict(sorted(found.items(), key=lambda item: -item[1]))
