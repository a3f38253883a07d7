"""A real server and real devices in a folder of their own, on a free port, to be started, killed and waited for."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from fedprune.deployment import flower
from simulations.benchmarks.soak import outcome
from simulations.benchmarks.soak.outcome import FAILED, HELD, Failed, Outcome

ROOT = Path(__file__).resolve().parents[3]
DIGITS = str(ROOT / "simulations" / "digits.toml")
SETTINGS = (
    "rounds=2", "data.devices=2", "data.examples=400", "pretraining.epochs=1", "method.pool=1", "evaluate_every=2",
    "training.epochs=60", "least_replies=1.0", "retries=6", "deadline_s=150",
)  # fmt: skip
SHORT = ("rounds=1",)
CLI = [sys.executable, "-m", "fedprune.cli"]
ACTOR = "FEDPRUNE_SOAK"
"""Environment variable of every process of a stage: FOLDER/NAME."""
START_S, RUN_S = 150.0, 700.0
_POLL_S = 0.3
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_INTO_S = 1.0  # from its library to its training


class Actor:
    """A command and everything that it starts, with its output in a file."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        """Start it."""
        self.log, self.marker = log, environment[ACTOR]
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                list(command), env=environment, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip

    def text(self) -> str:
        """What it and its children wrote so far, without colours."""
        return _COLOUR.sub("", self.log.read_text(errors="replace"))

    def children(self, word: str) -> list[psutil.Process]:
        """Its processes with ``word`` in their command."""
        return [one for one in marked(self.marker) if word in " ".join(_command(one))]

    def kill(self) -> None:
        """As power that goes: everything at once, without a word."""
        kill_marked(self.marker)
        self.process.wait(30)


class Stage:
    """A fleet: its folder, its server, its devices. At the end of the block nothing of it runs."""

    def __init__(
        self, folder: Path, names: Sequence[str] = ("kitchen", "attic"), *, host: str = "127.0.0.1",
        settings: Sequence[str] = (), fleet: Path | None = None,
    ) -> None:  # fmt: skip
        """Make the fleet and enrol devices; nothing is started. ``settings`` come after the usual ones.

        A ``fleet`` that is there already goes on.
        """
        self.folder, self.fleet = folder, fleet or folder / "fleet"
        self.settings = with_settings(settings)
        self.port, self._number = free_port(), 0
        self.out = self.fleet / "runs" / "digits"
        if not (self.fleet / "config.toml").exists():
            self.command("server", "init", str(self.fleet), "--host", host, "--port", str(self.port))
        for name in names:
            self.command("server", "enrol", str(self.fleet), name)

    def __enter__(self) -> Self:
        """The stage itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill whatever is left of it."""
        kill_marked(f"{self.folder}/")

    def environment(self, actor: str) -> dict[str, str]:
        """A home of its own for each actor: no two devices of this machine may meet."""
        home = self.folder / "homes" / actor
        home.mkdir(parents=True, exist_ok=True)
        given = flower.environment(self.folder / "nowhere")
        return {**given, "HOME": str(home), ACTOR: f"{self.folder}/{actor}", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def command(self, *words: str) -> str:
        """What a command of fedprune prints. Failed where it ends with another code than 0."""
        done = subprocess.run(
            [*CLI, *words], env=self.environment("operator"), cwd=self.folder, capture_output=True, text=True,
            timeout=START_S,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"fedprune {' '.join(words[:2])}: {last_line(done.stdout + done.stderr)}")
        return done.stdout

    def serve(self, patience_s: float = START_S) -> Actor:
        """The server, started, once it is ready."""
        self._number += 1
        words = [*CLI, "server", "start", str(self.fleet)]
        server = Actor(words, self.environment("server"), self.folder / f"server-{self._number}.log")
        self.until(lambda: "is ready at" in server.text(), patience_s, "the server does not start", server)
        return server

    def join(self, name: str, *, before: Sequence[str] = (), environment: dict[str, str] | None = None) -> Actor:
        """A device, joining; ``before`` are words before its command."""
        words = [*before, *CLI, "join", str(self.fleet / "devices" / f"{name}.join")]
        given = {**self.environment(name), **(environment or {})}
        return Actor(words, given, self.folder / f"{name}.log")

    def run(self, *options: str) -> Actor:
        """``fedprune run`` of the experiment on the fleet, started."""
        self._number += 1
        words = [*CLI, "run", DIGITS, "--fleet", str(self.fleet), *set_words(self.settings), *options]
        return Actor(words, self.environment("run"), self.folder / f"run-{self._number}.log")

    def resume(self, patience_s: float = 300.0) -> tuple[Actor, str]:
        """``fedprune run --resume``, again and again until the server takes it; and what it said before."""
        started, refused, number = time.monotonic(), "", self.out / "run_id"
        while True:
            before, run = _changed(number), self.run("--resume")
            while run.process.poll() is None and _changed(number) == before:
                time.sleep(_POLL_S)
            waited = time.monotonic() - started
            if run.process.poll() != 2 or "under way" not in run.text():
                return run, f"--resume was refused for {waited:.0f} s ({refused}); " if refused else ""
            refused = last_line(run.text()).partition(": ")[2].partition(";")[0]
            if waited > patience_s:
                raise Failed(f"--resume is refused after {waited:.0f} s: {refused}")
            time.sleep(5)

    def finish(self, run: Actor, limit_s: float = RUN_S) -> None:
        """Wait for a run's end. Failed where it does not end, or not well."""
        try:
            code = run.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"the run does not end within {limit_s:.0f} s; last: {self.progress()}") from None
        if code:
            why = next((line for line in run.text().splitlines() if "failed:" in line), last_line(run.text()))
            raise Failed(f"fedprune run ends with {code}: {why}")

    def same(self, happened: str) -> Outcome:
        """The outcome of a run that is over: held where its model is that of the undisturbed one, bit for bit."""
        undisturbed = reference(self.settings)
        differs = outcome.difference(self.out, undisturbed)
        if not differs and outcome.phases(self.out) != outcome.phases(undisturbed):
            differs = "the model is the same, but the metrics have other phases"
        if differs:
            return Outcome(happened, f"not the undisturbed run: {differs}", self.operator_sees(), FAILED)
        return Outcome(happened, "nothing: the model is that of the undisturbed run", self.operator_sees(), HELD)

    def progress(self) -> str:
        """How far the run is."""
        found = outcome.rows(self.out)
        return f"round {found[-1]['round']}, {found[-1]['phase']}" if found else "before the first phase"

    def reached(self, round: int, phase: str) -> Callable[[], bool]:
        """Whether a phase of a round is done."""
        return lambda: any((row["round"], row["phase"]) == (round, phase) for row in outcome.rows(self.out))

    def until(self, happened: Callable[[], bool], limit_s: float, what: str, actor: Actor | None = None) -> None:
        """Wait; Failed where it takes too long, or where ``actor`` ends first."""
        until = time.monotonic() + limit_s
        while not happened():
            ended = actor is not None and actor.process.poll() is not None
            if (ended and not happened()) or time.monotonic() > until:
                more = f": {last_line(actor.text())}" if actor is not None else ""
                raise Failed(f"{what}{more}")
            time.sleep(_POLL_S)

    def training(self, device: Actor, round: int = 1, into_s: float = _INTO_S) -> psutil.Process:
        """The device's ClientApp process, ``into_s`` after it has a message of ``round`` and a library to train with.

        Failed where there is none, or where it is done by then.
        """
        received = re.compile(rf"ROUND {round}\].*?Receiving: ", re.DOTALL)
        found: list[psutil.Process] = []

        def trains() -> bool:
            for one in apps(device) if received.search(device.text()) else ():
                with suppress(psutil.Error, OSError):
                    loaded = Path(f"/proc/{one.pid}/maps").read_text()
                    found.extend([one] if "libtorch_cpu" in loaded or "_kernels.so" in loaded else [])
            return bool(found)

        self.until(trains, START_S * 2, f"the device does not come to train in round {round}", device)
        time.sleep(into_s)
        if "Sending: " in device.text().rpartition("Receiving: ")[2]:
            raise Failed("the device had trained before anything could befall it: nothing is shown")
        return found[0]

    def operator_sees(self) -> str:
        """What the run's metrics tell of devices, and ``fedprune status``'s last errors."""
        return outcome.said(self.out) or "nothing: no fault in the metrics"


def apps(device: Actor) -> list[psutil.Process]:
    """Processes of a device that work on a message: Flower's own, or forks of the one that is kept warm."""
    warm = device.children("fedprune.deployment.device.warm")
    parents = {one.pid for one in warm}
    forks = []
    for one in warm:
        with suppress(psutil.Error):
            forks += [one] if one.ppid() in parents else []
    return [*device.children("fedprune.deployment.device.clientapp"), *forks]


def reference(settings: Sequence[str] = ()) -> Path:
    """The folder of the undisturbed run with these settings, made by ``fedprune simulate`` unless it is there."""
    words = [word for word in with_settings(settings) if not word.startswith(("deadline_s", "retries", "least"))]
    folder = state_folder() / "undisturbed" / f"{zlib.crc32(' '.join(words).encode()):08x}"
    if not (folder / "result.json").exists():
        made = folder.with_name(f"{folder.name}.{os.getpid()}")  # two hazards may want it at once
        command = [*CLI, "simulate", DIGITS, "--out", str(made), "--workers", "1", *set_words(words)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise Failed(f"fedprune simulate: {last_line(done.stdout + done.stderr)}")
        with suppress(OSError):
            made.rename(folder)
    return folder


def state_folder() -> Path:
    """Where finished hazards of a full run are kept, and undisturbed runs."""
    return ROOT / "runs" / "faults"


def with_settings(more: Sequence[str]) -> list[str]:
    """The usual settings with these in place of those of the same key."""
    keys = {word.partition("=")[0] for word in more}
    return [word for word in SETTINGS if word.partition("=")[0] not in keys] + list(more)


def set_words(settings: Sequence[str]) -> list[str]:
    """Settings as options of a command."""
    return [word for setting in settings for word in ("--set", setting)]


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def last_line(text: str, *, whole: bool = False) -> str:
    """The last line that says something; its first 300 characters, or the ``whole``."""
    lines = [line.strip(" │╭╮╰╯─") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "nothing")[: None if whole else 300]


def marked(marker: str) -> Iterator[psutil.Process]:
    """Processes of the actors whose marker begins so."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(ACTOR, "").startswith(marker) and process.pid != os.getpid():
                yield process


def kill_marked(marker: str) -> None:
    """SIGKILL to all of them, until none is left. Failed where one stays."""
    for _ in range(100):
        found = [one for one in marked(marker) if _alive(one)]
        for one in found:
            with suppress(ProcessLookupError, psutil.Error):
                os.kill(one.pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.1)
    raise Failed(f"processes of {marker} stay behind")


def _changed(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _command(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []
