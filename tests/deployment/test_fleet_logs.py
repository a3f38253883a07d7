"""What a server and a device write down, and how a device finds out why it is away."""

import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fleet_commands import entries, free_port, running

from fedprune.deployment import certificates, devices, logs
from fedprune.deployment.device import hints
from fedprune.deployment.fleet_folder import Fleet, create, renew


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return create(tmp_path / "fleet", ["server.example"], port=free_port(), listen="127.0.0.1")


# -- logs


def test_flowers_lines_become_entries_that_can_be_asked(tmp_path: Path) -> None:
    said: list[str] = []
    log = logs.Log(tmp_path / "log.jsonl", said.append, "kitchen")
    lines = [
        "\x1b[92mINFO \x1b[0m:      SuperNode ID: 13699323453083738734",
        "\x1b[92mINFO \x1b[0m:      ",
        "\x1b[92mINFO \x1b[0m:      [RUN 11177548425467798092, ROUND 2]",
        "\x1b[92mINFO \x1b[0m:      Receiving: train message (ID: 09b1)",
        "\x1b[92mINFO \x1b[0m:      ",
        "INFO:     Started server process [9818]",
        "\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 0.47 seconds",
        "\x1b[91mERROR \x1b[0m:     Exit Code: 305",
        "[code: 2004] Failed to activate SuperNode.",
        "INFO:     Shutting down",
        "Traceback (most recent call last):",
        "ValueError: ß",
        '2026-11-22T22:59:43.863Z INFO [uvicorn.access] 127.0.0.1:54028 - "POST /v1/fleet/pull-messages HTTP/1.1" 200',
        '2026-11-22T22:59:45.413Z INFO [uvicorn.access] 127.0.0.1:54898 - "POST /v1/fleet/pull-messages HTTP/1.1" 401',
    ]
    for line in lines:
        log.flower(line)
    log.hint("set the clock")
    assert said == [*lines, "set the clock"]
    found = entries(tmp_path / "log.jsonl")
    assert all(datetime.fromisoformat(entry["time"]).utcoffset() == timedelta() for entry in found)
    assert all(entry["device"] == "kitchen" for entry in found)
    assert [(entry["level"], entry["event"], entry["text"][:19]) for entry in found] == [
        ("INFO", "online", "SuperNode ID: 13699"),
        ("INFO", "receiving", "Receiving: train me"),
        ("INFO", "log", "Started server proc"),
        ("WARNING", "retry", "Connection attempt "),
        ("ERROR", "exit", "Exit Code: 305"),
        ("ERROR", "log", "[code: 2004] Failed"),
        ("INFO", "log", "Shutting down"),
        ("ERROR", "error", "Traceback (most rec"),
        ("ERROR", "log", "ValueError: ß"),
        ("WARNING", "request", "127.0.0.1:54898 - \""),
        ("WARNING", "hint", "set the clock"),
    ]  # fmt: skip
    assert [(entry.get("run"), entry.get("round")) for entry in found[:3]] == [
        (None, None), ("11177548425467798092", 2), (None, None),
    ]  # fmt: skip


def test_a_devices_owner_is_told_when_it_is_connected_and_what_it_works_on(tmp_path: Path) -> None:
    said: list[str] = []
    work = logs.Work("server.local:8000", logs.Log(tmp_path / "log.jsonl", said.append, "kitchen"))
    for line in (
        "\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 0.47 seconds",
        "\x1b[92mINFO \x1b[0m:      Connection successful after 0.47 seconds and 2 tries.",
        "\x1b[92mINFO \x1b[0m:      SuperNode ID: 13699323453083738734",
        "\x1b[92mINFO \x1b[0m:      ",
        "\x1b[92mINFO \x1b[0m:      [RUN 11177548425467798092, ROUND 2]",
        "\x1b[92mINFO \x1b[0m:      Receiving: train message (ID: 09b1)",
        "\x1b[92mINFO \x1b[0m:      [RUN 11177548425467798092, ROUND 2]",
        "\x1b[92mINFO \x1b[0m:      Sending: train message (ID: 77)",
        "\x1b[92mINFO \x1b[0m:      [RUN 11177548425467798092]",
        "\x1b[92mINFO \x1b[0m:      Receiving: query.several message (ID: 09b2)",
        "\x1b[92mINFO \x1b[0m:      Sending: query.several message (ID: 78)",
        "\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 0.47 seconds",
        "\x1b[93mWARNING \x1b[0m:   Connection attempt failed, retrying in 1.12 seconds",
        "\x1b[92mINFO \x1b[0m:      Connection successful after 1.59 seconds and 3 tries.",
        "\x1b[92mINFO \x1b[0m:      Connection successful after 0.1 seconds and 2 tries.",
    ):
        work.read(line)
    assert [re.sub(r"\d\.\d s", "N s", line) for line in said] == [
        "connected to server.local:8000; waiting for work",
        "worked on round 2: train, N s",
        "worked: several phases, N s",
        "connected to server.local:8000; waiting for work",
    ]
    assert [entry["event"] for entry in entries(tmp_path / "log.jsonl")] == [
        "connected", "worked", "worked", "connected"
    ]  # fmt: skip


def test_a_log_stays_small_and_a_disk_that_cannot_be_written_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "_BYTES", 2000)
    said: list[str] = []
    log = logs.Log(tmp_path / "log.jsonl", said.append)
    for number in range(400):
        log.said("word", f"line {number}")
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["log.jsonl", "log.jsonl.1", "log.jsonl.2", "log.jsonl.3"]
    assert all(file.stat().st_size <= 2000 for file in files)
    assert entries(files[0])[-1]["text"] == "line 399"
    nowhere = logs.Log(tmp_path / "missing" / "log.jsonl", said.append)
    nowhere.said("word", "still said")
    assert said[-1] == "still said"
    assert capsys.readouterr().err == ""


# -- hints


@contextmanager
def _web(fleet: Fleet | None, date: datetime | None = None) -> Iterator[str]:
    """The port of something that answers over the TLS of a fleet, or over none, and says that it is ``date``."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(404)
            if date is not None:
                self.send_header("date", format_datetime(date, usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(HTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

    web = Quiet(("127.0.0.1", 0), Handler)
    if fleet is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(fleet.path / "server.crt", fleet.path / "server.key")
        web.socket = context.wrap_socket(web.socket, server_side=True)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield str(web.server_port)
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "^$"),
        (-3, "^$"),
        (290, "^$"),
        (-9, r"^this device's clock is \d+ s ahead of the server's; Flower takes at most 5 s ahead"),
        (-3600, "^this device's clock is 3,6.. s ahead of"),
        (3600, "^this device's clock is 3,[56].. s behind the server's; .* 300 s behind: .*timedatectl set-ntp true$"),
    ],
)
def test_a_clock_that_is_off_is_told_from_the_servers(fleet: Fleet, seconds: int, expected: str) -> None:
    with _web(fleet, datetime.now(UTC) + timedelta(seconds=seconds)) as port:
        assert re.search(expected, hints.why(f"127.0.0.1:{port}", fleet.path / "ca.crt"))


def test_each_reason_is_said_with_what_to_do(fleet: Fleet, tmp_path: Path) -> None:
    ca, other = fleet.path / "ca.crt", create(tmp_path / "other", ["127.0.0.1"])
    with _web(fleet) as port:
        found = {
            "": hints.why(f"127.0.0.1:{port}", ca),  # a server that says no time
            "does not hold for 127.1: there, fedprune server renew FLEET --host 127.1": hints.why(f"127.1:{port}", ca),
            "is not of this device's fleet": hints.why(f"127.0.0.1:{port}", other.path / "ca.crt"),
        }
    with _web(None) as port:
        found["does not speak TLS"] = hints.why(f"127.0.0.1:{port}", ca)
    found["nothing listens at"] = hints.why(f"127.0.0.1:{free_port()}", ca)
    found["finds no machine of the name nowhere.invalid"] = hints.why("nowhere.invalid:8000", ca)
    for expected, said in found.items():
        assert expected in said
        assert bool(expected) == bool(said)
        assert "\n" not in said


def test_a_certificate_of_another_time_says_what_time_it_is_here(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as made_tomorrow:
        made_tomorrow.setattr(certificates, "_EARLIER", timedelta(days=-1))
        early = create(tmp_path / "early", ["127.0.0.1"])
    with monkeypatch.context() as made_long_ago:
        made_long_ago.setattr(certificates, "_VALID", timedelta(days=-1))
        late = renew(fleet, ["127.0.0.1"])
    for bad, expected in ((early, "is not valid yet, since here it is"), (late, "is out of date, if it is")):
        with _web(bad) as port:
            said = hints.why(f"127.0.0.1:{port}", bad.path / "ca.crt")
        assert f"{expected} {datetime.now(UTC):%Y-%m-%d}" in said
        assert "set this device's clock" in said


def test_a_device_that_reaches_no_server_says_why_and_writes_it_down(fleet: Fleet, tmp_path: Path) -> None:
    _, file = devices.enrol(fleet, "kitchen")
    read = file.read_text()
    file.write_text(read.replace("server.example", "127.0.0.1"))
    with running(["join", str(file)], tmp_path, tmp_path / "join.log", "nothing listens at"):
        pass
    found = entries(tmp_path / ".fedprune" / "kitchen" / "log.jsonl")
    events = [entry["event"] for entry in found]
    assert (events[0], events[-1]) == ("start", "stop")
    assert events[: events.index("hint")].count("retry") == 3
    hint = found[events.index("hint")]
    assert hint["text"] == f"nothing listens at 127.0.0.1:{fleet.port}: is the server running, and is its port right?"
    assert (hint["level"], hint["device"]) == ("WARNING", "kitchen")
