"""What the extras for devices bring to a 64-bit Raspberry Pi, by metadata; and an environment that has no more."""

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OF_TORCH = ("nvidia-", "cuda-", "triton")
"""What newer builds of torch declare for aarch64, and the pinned one does not."""
_PI = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "aarch64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.2",
    "python_version": "3.11",
    "sys_platform": "linux",
}


def project() -> dict[str, object]:
    """The table of the library's project file."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def asked(extra: str) -> list[Requirement]:
    """What fedprune[extra] asks for on the Pi."""
    found = project()
    lines = [*found["dependencies"], *found["optional-dependencies"][extra]]  # type: ignore[misc, index]
    return [requirement for requirement in map(Requirement, lines) if wanted(requirement, extra)]


def wanted(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement holds there."""
    return requirement.marker is None or requirement.marker.evaluate({**_PI, "extra": extra})


def closure(extra: str) -> set[str]:
    """Names of the distributions that come with fedprune[extra], by the metadata of those installed here."""
    waiting = asked(extra)
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for more in {"", *requirement.extras}:
            if (name, more) in seen:
                continue
            seen.add((name, more))
            try:
                declared = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                raise AssertionError(f"{name} is not installed here, so what it brings is unknown") from None
            for line in declared:
                child = Requirement(line)
                if wanted(child, more) and not (name == "torch" and canonicalize_name(child.name).startswith(OF_TORCH)):
                    waiting.append(child)
    return {name for name, _ in seen}


def environment(folder: Path, extra: str = "device") -> Path:
    """Make a virtual environment of what fedprune[extra] brings, links in place of copies; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    python = folder / "bin" / "python"
    for found in map(metadata.distribution, closure(extra)):
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(str(found.locate_file(top)))
        for script in found.entry_points.select(group="console_scripts"):
            program = python.with_name(script.name)
            program.write_text(
                f"#!{python}\nimport sys\nfrom {script.module} import {script.attr}\nsys.exit({script.attr}())\n"
            )
            program.chmod(0o755)
    (site / "fedprune.pth").write_text(f"{ROOT}\n")
    return python


def isolated() -> dict[str, str]:
    """The environment's variables, without other places to import from."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
