"""Every .tflite under a folder as a stranger brings it: inspected, made into C, compared with TensorFlow Lite Micro.

    python -m simulations.benchmarks.foreign --dir DIR
    python -m simulations.benchmarks.foreign --quick

Without --dir the files are those that the fuzzing benchmark spoils. Each is taken by a process of its own, within 1 GB
of memory and two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from simulations.benchmarks._report import Figure, write

COMMAND = "python -m simulations.benchmarks.foreign"
QUICK_FILES = 12
MOST_BYTES = 2**30
LIMIT_S = 120.0
EXPORTED, REFUSED, CRASHED, DIFFERS = "exported", "refused", "crashed", "differs"
_DIFFERS = "the C differs from "
_SAID = re.compile(r"\[[^]]*\]|\([^)]*\)|'[^']*'|-?\b\d[\d.,x]*(?:e[-+]?\d+)?\b")


class Taken(NamedTuple):
    """What became of a file."""

    name: str
    verdict: str
    why: str
    """For one that is exported, whose bits it gives; "" where nothing runs it here."""
    seconds: float


def main() -> None:
    """Take each file, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dir", type=Path, help="a folder with .tflite files at any depth")
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK_FILES} files, within a minute; not kept")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(given.child)
        return
    with tempfile.TemporaryDirectory() as name:
        folder: Path = given.dir or _own(Path(name))
        files = sorted(folder.rglob("*.tflite"))
        if not files:
            parser.error(f"no .tflite file under {folder}")
        if given.quick:
            files = files[:: -(-len(files) // QUICK_FILES)]
        found = list(taken(files, folder))
    console = Console(width=150)
    console.print(table(found))
    for one in found:
        if one.verdict in (CRASHED, DIFFERS):
            console.print(f"{one.name}: {one.verdict}: {one.why}", markup=False, highlight=False)
    if not given.quick:
        print(_write(found, given.dir is not None))


def taken(files: Sequence[Path], folder: Path) -> Iterator[Taken]:
    """What becomes of each file, named by its path in ``folder``."""
    for file in files:
        started = time.monotonic()
        verdict, why = _in_a_child(file)
        name = file.relative_to(folder).as_posix()
        yield Taken(name, verdict, why.replace(str(file), name), round(time.monotonic() - started, 2))


def kind(why: str) -> str:
    """A reason without the numbers, shapes and names of one file."""
    return _SAID.sub("…", why).strip()


def table(found: Sequence[Taken]) -> Table:
    """A line for each verdict, and for each kind of reason."""
    made = Table(title=f"{len(found)} files, and what became of them")
    for column in ("", "files", "such as"):
        made.add_column(column, justify="right" if column == "files" else "left", overflow="fold")
    for verdict in (EXPORTED, REFUSED, CRASHED, DIFFERS):
        each = [one for one in found if one.verdict == verdict]
        made.add_row(verdict, str(len(each)), "")
        for why, alike in _by_kind(each).items():
            said = f"with the bits of {why}" if why else "not compared"
            made.add_row(f"  {said if verdict == EXPORTED else why}", str(len(alike)), alike[0])
    return made


def _by_kind(found: Sequence[Taken]) -> dict[str, list[str]]:
    kinds = dict[str, list[str]]()
    for one in found:
        kinds.setdefault(kind(one.why), []).append(one.name)
    return dict(sorted(kinds.items(), key=lambda item: -len(item[1])))


def _own(folder: Path) -> Path:
    from simulations.benchmarks.fuzzing import brought

    for number, content in enumerate(brought.every()):
        (folder / f"{number:02d}.tflite").write_bytes(content)
    return folder


def _in_a_child(file: Path) -> tuple[str, str]:
    # Threads of a linear algebra library reserve memory for themselves, and there is nothing here for them to do.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "simulations.benchmarks.foreign", "--child", str(file)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as child:
        try:
            out, errors = child.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return CRASHED, f"not over after {LIMIT_S:g} s"
    if child.returncode == 0 and out:
        verdict, why = json.loads(out.splitlines()[-1])
        return verdict, why
    if child.returncode < 0:
        return CRASHED, signal.Signals(-child.returncode).name
    return CRASHED, (errors.strip().splitlines() or [f"exit code {child.returncode}"])[-1]


def _child(file: Path) -> None:
    """Take a file as the commands do; one line of JSON."""
    from fedprune.cli.bench import WRONG, why
    from fedprune.export.chip import foreign
    from fedprune.export.inspection.file import inspect

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    try:
        content = file.read_bytes()
        inspect(content)
        card = json.loads(foreign.files(content, file.stem, compare=True)["model_card.json"])
        verdict = EXPORTED, _beside(card.get("compared"))
    except WRONG as error:
        verdict = DIFFERS if _DIFFERS in str(error) else REFUSED, why(error)
    print(json.dumps(verdict))


def _beside(seen: dict[str, int | str] | None) -> str:
    if not seen:
        return ""
    return f"{seen['beside']}" + (", which rounds otherwise here" if seen["differing"] else "")


def _write(found: Sequence[Taken], theirs: bool) -> Path:
    counts = {verdict: sum(one.verdict == verdict for one in found) for verdict in (EXPORTED, REFUSED)}
    crashed, differ = (sum(one.verdict == verdict for one in found) for verdict in (CRASHED, DIFFERS))
    figures = {
        "files": Figure(len(found), "files", "higher"),
        "exported": Figure(counts[EXPORTED], "files", "higher"),
        "refused": Figure(counts[REFUSED], "files", "lower"),
        "crashed": Figure(crashed, "files", "lower", 0),
        "differing_from_tflm": Figure(differ, "files", "lower", 0),
        "most_seconds_of_a_file": Figure(max(one.seconds for one in found), "s", "lower", LIMIT_S),
    }
    path = write("foreign", figures, COMMAND + (" --dir DIR" if theirs else ""), ["tflite-micro", "ai-edge-litert"])
    refused = [one for one in found if one.verdict != EXPORTED]
    content = json.loads(path.read_text()) | {
        "kinds": {each: len(alike) for each, alike in _by_kind(refused).items()},
        "files": {one.name: {"verdict": one.verdict, "why": one.why} for one in found},
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


if __name__ == "__main__":
    main()
