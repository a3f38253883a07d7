"""What tests of a run's live page share: serve a run's folder, fetch from it, open it in a real browser."""

import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedprune.cli.watch import server

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
in_a_browser = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="chromium is not installed: apt install chromium")


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of a server of a run."""
    with server(run, 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{made.server_address[1]}/"
        finally:
            made.shutdown()
            thread.join()


def fetch(address: str, host: str | None = None) -> str:
    """What lies at an address."""
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()  # type: ignore[no-any-return]


def browse(address: str, tmp_path: Path) -> tuple[str, str]:
    """(document, text) of a page after five of its seconds; what it asks for is logged to net.json."""
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=5000 --window-size=400,900"
    )
    done = subprocess.run(
        [CHROMIUM, *flags.split(), "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
         f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={tmp_path / 'net.json'}",
         "--enable-logging=stderr", "--dump-dom", address],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    # neither an error of the script nor a breach of the policy
    assert not re.search(r"CONSOLE.*(Error:|Refused|violates)", done.stderr), done.stderr
    return done.stdout, re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", "", done.stdout, flags=re.S))
