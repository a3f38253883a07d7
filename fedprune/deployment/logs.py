"""What a server or a device says, to its owner as it comes, and as lines of JSON in a file that stays small."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

_BYTES, _OLDER = 2**20, 3  # of a file, and how many older ones are kept: a device's card must not fill
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"(?:\S+Z )?(DEBUG|INFO|WARNING|ERROR|CRITICAL) *(?::|\[[\w.]+\]) *(.*)")
_RUN = re.compile(r"\[RUN (\d+)(?:, ROUND (\d+))?\]")
_REQUEST = re.compile(r'\S+ - "\w+ \S+ HTTP/[\d.]+" (\d+)')
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
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"time": time, "level": level, "event": event, **self._about, **about, "text": text}
        self._file.handle(logging.makeLogRecord({"msg": json.dumps(entry, ensure_ascii=False)}))


class _Patient(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing: what cannot be written was said all the same."""
