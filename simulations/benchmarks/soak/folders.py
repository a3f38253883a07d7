"""A run's folder: two that want it, somebody else's, full, damaged, read-only, taken away."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from fedprune.cli import main as cli
from fedprune.experiment import ExperimentError
from fedprune.federated.rounds.asking import RunStopped
from simulations.benchmarks.soak import pieces
from simulations.benchmarks.soak.disk import small_disk
from simulations.benchmarks.soak.outcome import FAILED, HELD, Failed, Hazard, Outcome, difference, phases, skipped
from simulations.benchmarks.soak.stage import ACTOR, CLI, DIGITS, ROOT, last_line, set_words

_ALL_KB = (4, 20, 40, 60, 80, 100, 140, 180, 240)
_ROOM_KB = 4096


def two(folder: Path) -> Outcome:
    """A second run, with another seed, and a resume, in the folder of a run under way."""
    out = folder / "run"
    words = [*CLI, "simulate", DIGITS, "--out", str(out), *set_words([*pieces.SMALL])]
    given = {**os.environ, ACTOR: f"{folder}/first", "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(
        [*words, "--workers", "1"], env=given, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists():
        if first.poll() is not None or time.monotonic() > until:
            raise Failed(f"the first run does not begin: {last_line(first.communicate()[0])}")
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # however fast it is, it is under way
    told = [_command(*words[3:], "--seed", "1", "--fresh"), _command("resume", str(out))]
    first.send_signal(signal.SIGCONT)
    said, _ = first.communicate()
    if first.returncode:
        raise Failed(f"the first run ends with {first.returncode}: {last_line(said)}")
    result = json.loads((out / "result.json").read_text())
    rows = phases(out)
    wrong = [f"{code}: {why}" for code, why in told if code != 2 or f"in use by process {first.pid}" not in why]
    if wrong or result["seed"] != 0 or len(set(rows)) != len(rows):
        return Outcome("went on", f"{wrong or 'its rows or its result'}", told[0][1], FAILED)
    return Outcome(
        "the first went on to its end", "nothing", told[0][1].replace(str(folder), "").replace(f"{ROOT}/", ""), HELD
    )


def elses(folder: Path) -> Outcome:
    """A finished run with a tier that names a place outside, links, and files that hold something else."""
    run = pieces.whole(folder / "run")
    outside = folder / "outside"
    outside.mkdir()
    said = []

    def evil(name: str, change: Callable[[Path], object], *words: str, wanted: str = "", code: int = 2) -> None:
        copy = folder / name
        shutil.copytree(run, copy)
        change(copy)
        ended, why = _command(*(word.replace("RUN", str(copy)) for word in words))
        if ended != code or wanted not in why:
            raise Failed(f"{name}: {words[0]} ends with {ended}: {why}")
        said.append(why.replace(str(folder), ""))

    asked = json.loads((run / "experiment.json").read_text())
    tier = {"fleet": {"../../escaped": {"devices": 2}}}
    evil("tier", _writes("experiment.json", json.dumps({**asked, **tier})), *_EXPORT, wanted="names a folder")
    evil(
        "link", lambda at: _link(at / "microcontroller", outside), *_EXPORT[:-1], "microcontroller", wanted="is a link"
    )
    evil("result", _writes("result.json", "{}"), "report", "RUN", wanted="result.json: damaged")
    evil("no JSON", _writes("result.json", b"\xff"), *_EXPORT, wanted="result.json: damaged")
    evil("rows", _writes("metrics.jsonl", b"\xff\n{}\n"), "report", "RUN", wanted="2 damaged lines", code=0)
    evil("checkpoint", _writes("checkpoint.fedprune", b"\x01"), *_EXPORT, wanted="checkpoint.fedprune: damaged")
    if list(outside.iterdir()) or (folder.parent / "escaped").exists() or (folder / "escaped").exists():
        return Outcome("-", "something was written outside of the folder", said[0], FAILED)
    return Outcome(f"{len(said)} folders were refused, or read without what is damaged", "nothing", said[0], HELD)


_EXPORT = ("export", "RUN", "--to", "litert")


def full(sizes_kb: tuple[int, ...], folder: Path) -> Outcome:
    """A disk of so many KB for a run; then room is made, and it is gone on with."""
    undisturbed, disk = pieces.whole(folder / "undisturbed"), folder / "disk"
    disk.mkdir()
    if why := small_disk(disk, f"{_ROOM_KB}k"):
        return skipped(why)
    at = []
    for size_kb in sizes_kb:
        _resize(disk, size_kb)
        out = disk / str(size_kb)
        try:
            pieces.whole(out)
        except (RunStopped, ExperimentError) as error:
            at.append(_stopped(str(error), out))
        else:
            shutil.rmtree(out)
            continue
        _resize(disk, _ROOM_KB)
        pieces.whole(out, resume=True)
        if differs := difference(out, undisturbed):
            return Outcome(f"stopped at {at[-1]} and went on", differs, at[-1], FAILED)
        shutil.rmtree(out)
    if not at:
        raise Failed("no disk was too small")
    happened = f"stopped on {len(at)} of {len(sizes_kb)} disks, each at another file, and went on to its end with room"
    return Outcome(happened, "nothing: the model is that of the undisturbed run", "; ".join(dict.fromkeys(at)), HELD)


def _stopped(why: str, out: Path) -> str:
    if "\n" in why or "full" not in why:
        raise Failed(f"a full disk is said as: {why}")
    return why.replace(f"{out}/", "").replace(str(out), "the folder")


def _resize(disk: Path, size_kb: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_kb}k", str(disk)], check=True, capture_output=True)


def damaged(folder: Path) -> Outcome:
    """The last checkpoint loses its end; then both do."""
    undisturbed = pieces.whole(folder / "undisturbed")
    out = folder / "run"
    shutil.copytree(undisturbed, out)
    last = out / "checkpoint.fedprune"
    last.write_bytes(last.read_bytes()[:-50])
    said: list[str] = []
    pieces.whole(out, resume=True, progress=lambda row: said.append(row["notice"]) if "notice" in row else None)
    differs = difference(out, undisturbed)
    if differs or phases(out) != phases(undisturbed) or not said:
        return Outcome("went on from the one before", differs or f"rows, or a word: {said}", "; ".join(said), FAILED)
    for file in out.glob("checkpoint*"):
        file.write_bytes(b"")
    try:
        pieces.whole(out, resume=True)
    except ExperimentError as error:
        return Outcome("went on from the checkpoint before; without both it was refused", "the last phase, which was "
                       "computed again", f"{said[0]}; {error}".replace(str(folder), ""), HELD)  # fmt: skip
    raise Failed("a run without a whole checkpoint was gone on with")


def taken(folder: Path) -> Outcome:
    """The folder is moved away in mid-run; another stands in its place; a file does; it is read-only."""
    said = []
    for name, instead in (("gone", False), ("replaced", True)):
        out, was = folder / name, folder / f"{name} before"

        def move(row: Mapping[str, Any], out: Path = out, was: Path = was, instead: bool = instead) -> None:
            if row.get("phase") == "train" and not was.exists():
                out.rename(was)
                if instead:
                    out.mkdir()

        said.append(_refusal(functools.partial(pieces.whole, out, progress=move)))
        if out.exists() and list(out.iterdir()):
            return Outcome("went on in another folder of the same name", "that folder", said[-1], FAILED)
    (folder / "file").write_text("mine")
    said.append(_refusal(functools.partial(pieces.whole, folder / "file")))
    said.append(_refusal(functools.partial(pieces.whole, Path("/proc/fedprune"))))
    return Outcome("was refused, or ended", "what was moved away", "; ".join(said).replace(f"{folder}/", ""), HELD)


def _refusal(run: Callable[[], object]) -> str:
    try:
        run()
    except ExperimentError as error:
        if "\n" in str(error):
            raise Failed(f"more than a line: {error}") from error
        return str(error)
    raise Failed("a run ends well in a folder that is not there")


def _command(*words: str) -> tuple[int, str]:
    """Exit code and last line of a command, in this process."""
    before, out = sys.argv, io.StringIO()
    sys.argv = ["fedprune", *words]
    try:
        with redirect_stdout(out), redirect_stderr(out):
            cli.main()
    except SystemExit as ended:
        return int(ended.code or 0), last_line(out.getvalue())
    finally:
        sys.argv = before
    return 0, last_line(out.getvalue())


def _writes(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda at: (at / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def _link(place: Path, to: Path) -> None:
    shutil.rmtree(place)
    place.symlink_to(to)


HAZARDS = {
    "two_in_one_folder": Hazard("two runs in one folder at once", two, 300, two),
    "elses_folder": Hazard("a run's folder that is somebody else's, or damaged", elses, 300, elses),
    "full_anywhere": Hazard(
        "a disk that is full at any file of a run",
        functools.partial(full, _ALL_KB),
        600,
        functools.partial(full, _ALL_KB[1:2]),
    ),
    "damaged_checkpoint": Hazard("the last checkpoint is damaged, then the one before as well", damaged, 300, damaged),
    "folder_taken": Hazard("a run's folder is moved away, replaced, a file, or cannot be written", taken, 300, taken),
}
