"""What a server or a device says, to its owner as it comes, and as lines of JSON in a file that stays small."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

_BYTES, _OLDER = 2**20, 3  # of a file, and how many older ones are kept: a device's card must not fill
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"(?:\S+Z )?(DEBUG|INFO|WARNING|ERROR|CRITICAL) *(?::|\[[\w.]+\]) *(.*)")
_RUN = re.compile(r"\[RUN (\d+)(?:, ROUND (\d+))?\]")
_REQUEST = re.compile(r'\S+ - "\w+ \S+ HTTP/[\d.]+" (\d+)')
_SENDING = re.compile(r"Sending: (\S+) message")
_EVENTS = (
    ("receiving", re.compile(r"Receiving: \S+ message")),
    ("sending", re.compile(r"Sending: \S+ message")),
    ("online", re.compile(r"SuperNode ID: ")),
    ("retry", re.compile(r"Connection attempt failed")),
    ("exit", re.compile(r"Exit Code: ")),
    ("error", re.compile(r"Traceback ")),
)


class Log:
    """Passes lines on to ``say``, and writes each to ``file`` as {"time", "level", "event", ..., "text"}.

    Beside these an entry has ``device``, ``run`` (a text: it is too large for a double) and ``round`` where they are
    known. ``event`` is a word of one's own, such as hint; of Flower's lines receiving, sending, online, retry, exit,
    error, request (a refused one: those that went well are not kept), else log. A disk that is full stops nobody.
    """

    def __init__(self, file: Path, say: Callable[[str], None], device: str = "") -> None:
        """The file is made with the first line."""
        self._say, self._about = say, {"device": device} if device else {}
        self._file = _Patient(file, maxBytes=_BYTES, backupCount=_OLDER, encoding="utf-8", delay=True)
        self._level = "INFO"
        self._run: dict[str, str | int] = {}

    def flower(self, line: str) -> None:
        """A line of one of Flower's programs; one without a level has that of the line before."""
        self._say(line)
        line = _COLOUR.sub("", line)
        if found := _LEVEL.fullmatch(line):
            self._level, text = found.groups()
        else:
            text = line
            self._level = "ERROR" if line.startswith("Traceback ") else self._level
        if not text.strip():
            self._run = {}  # an empty line ends what Flower says of a message
        elif run := _RUN.fullmatch(text):
            self._run = {"run": run[1], **({"round": int(run[2])} if run[2] else {})}
        elif request := _REQUEST.match(text):
            if int(request[1]) >= 400:
                self.write("WARNING", "request", text)
        else:
            event = next((name for name, pattern in _EVENTS if pattern.match(text)), "log")
            self.write(self._level, event, text, **self._run)

    def said(self, event: str, text: str, level: str = "INFO", **about: str | int) -> None:
        """A line of one's own."""
        self._say(text)
        self.write(level, event, text, **about)

    def hint(self, text: str) -> None:
        """What is wrong, as far as can be told, and what to do."""
        self.said("hint", text, "WARNING")

    def write(self, level: str, event: str, text: str, **about: str | int) -> None:
        """An entry of the file alone."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"time": now, "level": level, "event": event, **self._about, **about, "text": text}
        self._file.handle(logging.makeLogRecord({"msg": json.dumps(entry, ensure_ascii=False)}))


class Work:
    """Reads what a SuperNode says, and tells of it what a device's owner wants to know: it is connected, it works.

    ``address`` is the server's.
    """

    def __init__(self, address: str, log: Log) -> None:
        """Nothing is told before the first line."""
        self._address, self._log = address, log
        self._known = self._lost = False
        self._round, self._began = "", 0.0

    def read(self, line: str) -> None:
        """A line of its output."""
        line = _COLOUR.sub("", line)
        found = _LEVEL.fullmatch(line)
        text = found[2] if found else line
        if text.startswith("Connection attempt failed"):
            self._lost = True
        elif text.startswith("SuperNode ID: ") or (
            self._known and self._lost and text.startswith("Connection successful")
        ):
            self._known, self._lost = True, False
            self._log.said("connected", f"connected to {self._address}; waiting for work")
        elif run := _RUN.fullmatch(text):
            self._round = run[2] or ""
        elif text.startswith("Receiving: "):
            self._began = time.monotonic()
        elif (work := _SENDING.match(text)) and self._began:
            of = f" on round {self._round}" if self._round else ""
            self._log.said("worked", f"worked{of}: {_work(work[1])}, {time.monotonic() - self._began:.1f} s")
            self._began = 0.0


def _work(route: str) -> str:
    """A message's type in words."""
    word = route.rpartition(".")[2]
    return "several phases" if word == "several" else word.replace("_", " ")


class _Patient(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing: what cannot be written was said all the same."""
