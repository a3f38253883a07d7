"""What ``fedprune watch`` does: serves a run's folder, as a live page and to Prometheus, to this machine alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rich.console import Console

from fedprune import experiment as _experiment
from fedprune.cli import fleet_run
from fedprune.experiment import ExperimentError
from fedprune.federated.rounds import model as _state
from fedprune.pruning import masks
from fedprune.runs.folder import RunFolder, inside
from fedprune.runs.live import SCRIPT_HASH, Seen, metrics_text, page, picture

_HERE = "127.0.0.1"
_POLICY = (
    f"default-src 'none'; script-src '{SCRIPT_HASH}'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Watched:
    """A run's folder, read again where its files have changed. It may come, grow, shrink and end meanwhile."""

    def __init__(self, path: Path) -> None:
        """A folder that may not exist yet. ExperimentError where something else lies there."""
        self._fleet_run = fleet_run.opened(path)
        if path.exists() and not (path.is_dir() and not any(path.iterdir())) and not self._fleet_run:
            RunFolder(path).experiment()  # says what is wrong
        self._path = path
        self._lock = threading.Lock()
        self._stamps: dict[str, tuple[int, ...] | None] = {}
        self._seen = Seen()

    def picture(self) -> dict[str, Any]:
        """How the run stands now. What cannot be read, as while it is being replaced, is as it was before."""
        with self._lock:
            for name, read in (
                ("experiment.json", _asked), ("metrics.jsonl", _rows),
                ("result.json", _result), ("checkpoint.fedprune", _layers), ("devices.json", _nodes),
            ):  # fmt: skip
                file = self._path / name
                stamp = _stamp(file)
                if name in self._stamps and stamp == self._stamps[name]:
                    continue
                try:
                    self._seen = self._seen._replace(**read(file if stamp else None))
                except (OSError, ValueError):
                    continue
                self._stamps[name] = stamp
            found = picture(self._seen, time.time())
            return self._fleet_run.told(found, self._seen.experiment) if self._fleet_run else found


def server(run: Path, port: int) -> ThreadingHTTPServer:
    """A server of ``/`` (the page), ``/run.json`` and ``/metrics``, on this machine alone; port 0 is any free one.

    ExperimentError where the folder is no run's, or the port is taken.
    """
    watched = Watched(run)

    class Handler(_Handler):
        def content(self) -> tuple[str, str] | None:
            path = self.path.partition("?")[0]
            if path == "/":
                return "text/html; charset=utf-8", page()
            if path == "/run.json":
                return "application/json", json.dumps(watched.picture(), allow_nan=False)
            if path == "/metrics":
                return "text/plain; version=0.0.4; charset=utf-8", metrics_text(watched.picture())
            return None

    try:
        made = ThreadingHTTPServer((_HERE, port), Handler)
    except (OSError, OverflowError) as error:
        raise ExperimentError(
            f"--port {port}: cannot be served ({error}); choose another, or 0 for any free one"
        ) from error
    made.daemon_threads = True
    return made


def watch(console: Console, run: Path, port: int) -> None:
    """Serve a run until Ctrl-C. ExperimentError as ``server``."""
    with server(run, port) as made:
        where = f"http://{_HERE}:{made.server_address[1]}/"
        console.print(f"{run}: {where} (Prometheus: {where}metrics); Ctrl-C ends it", markup=False, soft_wrap=True)
        try:
            made.serve_forever()
        except KeyboardInterrupt:
            return


def export_events(console: Console, run: Path, out: Path | None) -> None:
    """Write a run's rounds for TensorBoard, finished or not. ExperimentError without rounds, or without TensorBoard."""
    from fedprune.runs.live.tensorboard import write_events

    seen = Watched(run).picture()
    if not seen["rounds"]:
        raise ExperimentError(f"{run}: no line of metrics yet; fedprune simulate writes them")
    with nullcontext(out) if out is not None else _own_folder(run) as folder:
        try:
            written = write_events(seen, folder)
        except ModuleNotFoundError as error:
            raise ExperimentError(f"{error.name} is not installed here: pip install 'fedprune[tensorboard]'") from error
        except OSError as error:
            raise ExperimentError(f"{folder}: cannot be written ({error.strerror})") from error
    for path in written:
        console.print(f"{path}  {path.stat().st_size:,} bytes", markup=False, soft_wrap=True)


@contextmanager
def _own_folder(run: Path) -> Iterator[Path]:
    with RunFolder(run).held():
        folder = inside(run, "tensorboard")
        try:
            yield folder
        finally:
            with suppress(OSError):  # what holds something stays
                folder.rmdir()


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server_version, sys_version = "fedprune", ""

    def content(self) -> tuple[str, str] | None:
        """(type, text) of what is asked for, or None."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Send a page, or say why not."""
        # a page from elsewhere may point a name of its own at this machine: it shall learn nothing
        if self.headers.get("Host", "").partition(":")[0] not in (_HERE, "localhost"):
            self._send(403, "text/plain", f"ask as http://{_HERE} or http://localhost\n")
        elif (found := self.content()) is None:
            self._send(404, "text/plain", "here are /, /run.json and /metrics\n")
        else:
            self._send(200, *found)

    do_HEAD = do_GET

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        try:
            self.send_response(status)
            for key, value in (
                ("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
                ("Content-Security-Policy", _POLICY), ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
            ):  # fmt: skip
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True  # a browser that has gone on to another page

    def log_message(self, *_: object) -> None:
        """Say nothing: a page that asks every two seconds would fill the terminal."""


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _asked(file: Path | None) -> dict[str, Any]:
    return {"experiment": _experiment.from_json(file.read_bytes()) if file else None}


def _rows(file: Path | None) -> dict[str, Any]:
    """Whole lines; one that is being written, or that a crash cut short, is left out."""
    if file is None:
        return {"rows": (), "written_s": None}
    written, rows = file.stat().st_mtime, []
    for line in file.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("round"), int) and isinstance(row.get("phase"), str):
            rows.append(row)
    return {"rows": rows, "written_s": written}


def _nodes(file: Path | None) -> dict[str, Any]:
    found = json.loads(file.read_bytes()) if file else {}
    nodes = [node for node in found.values() if isinstance(node, dict)] if isinstance(found, dict) else []
    return {"nodes": {node["device"]: node for node in nodes if isinstance(node.get("device"), int | str)}}


def _result(file: Path | None) -> dict[str, Any]:
    found = json.loads(file.read_bytes()) if file else None
    return {"result": found if isinstance(found, dict) else None}


def _layers(file: Path | None) -> dict[str, Mapping[str, Mapping[str, float]]]:
    if file is None:
        return {"layers": {}}
    state = _state.read(file)
    return {"layers": {part: masks.densities(state.masks_of(part)) for part in state.parts or [""]}}
