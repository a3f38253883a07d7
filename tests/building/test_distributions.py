"""From the source distribution to an installed package: with a compiler, without one, beside a Flower app bundle."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = sysconfig.get_path("purelib")
ASK = "from fedprune.native import library; print(library.__file__, library.instructions() or 'none')"
_LACKING = [program for program in ("cmake", "c++") if not shutil.which(program)]

pytestmark = pytest.mark.skipif(bool(_LACKING), reason=f"not here: {', '.join(_LACKING)}")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    folder = tmp_path_factory.mktemp("source")
    build = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.iterdir()
    return found


def wheel(source: Path, folder: Path, **environment: str) -> tuple[Path, str]:
    """The wheel of a source distribution, and what its building said."""
    command = ("pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    built = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-m", *command], env=built, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found, done.stdout + done.stderr


def asked(*path: Path | str, cwd: Path) -> list[str]:
    """Where the package is imported from and its instruction set, by a Python that has only these places."""
    environment = {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run([sys.executable, "-S", "-c", ASK], env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the wheel that a compiler made."""
    folder = tmp_path_factory.mktemp("installed")
    found, said = wheel(source, folder)
    assert "falls back to torch" not in said
    with zipfile.ZipFile(found) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_is_for_any_python_of_this_platform_and_holds_the_kernels(installed: Path, tmp_path: Path) -> None:
    (described,) = installed.glob("*.dist-info/WHEEL")
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert f"Tag: py3-none-{platform}\n" in described.read_text()
    place, instructions = asked(installed, SITE, cwd=tmp_path)
    assert Path(place).is_relative_to(installed)
    assert instructions in ("avx512", "avx2", "sse2", "neon")


def test_the_wheel_holds_the_package_its_licence_and_nothing_else(installed: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "fedprune"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    held = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    described = {name for name in held if ".dist-info/" in name}
    assert held - described == tracked | {"fedprune/native/_kernels.so"}
    assert {name.split("/", 1)[1] for name in described} == {
        "METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip


def test_a_library_has_three_functions_and_nothing_of_a_standard_library(installed: Path) -> None:
    if not shutil.which("nm"):
        pytest.skip("nm is not here")
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", str(installed / "fedprune" / "native" / "_kernels.so")],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    names = [line.split()[-1] for line in symbols.splitlines()]
    assert names == ["fedprune_instructions", "fedprune_layout", "fedprune_run"]


@pytest.fixture
def no_compiler(tmp_path: Path) -> dict[str, str]:
    """Variables of an environment that has CMake and nothing that compiles."""
    place = tmp_path / "programs"
    place.mkdir()
    for program in ("cmake", "ninja", "make"):
        if found := shutil.which(program):
            (place / program).symlink_to(found)
    return {"PATH": str(place), "CC": "", "CXX": ""}


def test_without_a_compiler_it_installs_without_kernels_and_says_so(
    source: Path, no_compiler: dict[str, str], tmp_path: Path
) -> None:
    _says_that_training_falls_back(source, tmp_path, **no_compiler)


def test_kernels_that_do_not_compile_are_left_out(source: Path, tmp_path: Path) -> None:
    _says_that_training_falls_back(source, tmp_path, CXXFLAGS="-Dfedprune_run=1")


def _says_that_training_falls_back(source: Path, tmp_path: Path, **environment: str) -> None:
    (tmp_path / "wheels").mkdir()
    found, said = wheel(source, tmp_path / "wheels", **environment)
    (line,) = {line.strip() for line in said.splitlines() if "falls back to torch" in line}
    assert line.startswith("fedprune: ")
    with zipfile.ZipFile(found) as archive:
        archive.extractall(tmp_path / "site")
    assert asked(tmp_path / "site", SITE, cwd=tmp_path)[1] == "none"


def test_a_copy_without_a_library_such_as_an_app_bundles_has_the_installed_one(installed: Path, tmp_path: Path) -> None:
    for file in (ROOT / "fedprune").rglob("*.py"):  # what fab-include names
        copy = tmp_path / "bundle" / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    alone = asked(tmp_path / "bundle", SITE, cwd=tmp_path)
    place, instructions = asked(tmp_path / "bundle", installed, SITE, cwd=tmp_path)
    assert Path(place).is_relative_to(tmp_path / "bundle")
    assert (alone[1], instructions) == ("none", asked(installed, SITE, cwd=tmp_path)[1])
