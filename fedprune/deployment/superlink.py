"""flower-superlink behind a guard: from other machines only the devices' part of it can be reached.

Flower 1.41 serves devices, runs and administration on one port, and asks only devices for a key: whoever reaches that
port could submit code to the whole fleet, or let a device of his own in. It also reads every request to its end before
it looks at who sent it, so that a stranger could fill the server's memory.
"""

from __future__ import annotations

import functools
import sys
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER as _KEY
from flwr.supercore.constant import FLEET_HTTP_SIGNATURE_HEADER as _SIGNATURE
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from fedprune.deployment.parent import end_with_parent

_DEVICES = "/v1/fleet/"
_STRANGER_BYTES, _MOST_BYTES = 2**16, 2**28
# SQLite has one writer, and who waits for it sleeps: 15 connections, each for a device, hold one another up for seconds
_ONE_AT_A_TIME = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 60}
_FRESH_S = 310.0  # about as long as Flower takes a signature for


class Guard:
    """Passes on what comes from this machine, and what devices ask, if it is not too large; refuses the rest."""

    def __init__(self, app: ASGIApp, devices: Path) -> None:
        """Stand before ``app``; ``devices`` is the folder of enrolled devices' public keys."""
        self._app, self._devices = app, devices

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan" or _from_here(scope):
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif not scope.get("path", "").startswith(_DEVICES):
            await _refuse(send, 403, "only from the server itself")
        elif (wrong := self._too_large(dict(scope["headers"]))) is not None:
            await _refuse(send, *wrong)
        else:
            await self._app(scope, receive, send)

    def _too_large(self, headers: Mapping[bytes, bytes]) -> tuple[int, str] | None:
        if b"transfer-encoding" in headers:
            return 411, "say how long it is"  # Flower's devices do; without it only reading to the end would tell
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > _MOST_BYTES:
            return 413, f"at most {_MOST_BYTES:,} bytes"
        if int(length) > _STRANGER_BYTES and not self._signed(headers):
            return 413, f"at most {_STRANGER_BYTES:,} bytes from whom this server does not know"
        return None

    def _signed(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether an enrolled device's key has signed this request's time; Flower checks the rest once it is read."""
        try:
            key, signature = (b64decode(headers[name.lower().encode()]) for name in (_KEY, _SIGNATURE))
            time = headers[TIMESTAMP_HEADER.lower().encode()]
            age_s = (datetime.now(UTC) - datetime.fromisoformat(time.decode())).total_seconds()
            given = bytes_to_public_key(key)
            known = any(
                load_ssh_public_key(file.read_bytes()) == given
                for file in self._devices.glob("*.pub")
                if file.is_file()
            )
            return known and abs(age_s) < _FRESH_S and verify_signature(given, time, signature)
        except (KeyError, ValueError, TypeError, OSError):
            return False


async def _refuse(send: Send, status: int, why: str) -> None:
    body = f"{why}\n".encode()
    headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _from_here(scope: Scope) -> bool:
    # A connection of a machine with itself has one address at both ends; nobody else can have it and get answers.
    client, server = scope.get("client"), scope.get("server")
    return bool(client and server and client[0] == server[0])


def main() -> None:
    """flower-superlink with its own arguments, guarded; the working directory is the fleet's folder."""
    from flwr.supercore import sql_mixin
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink

    if not hasattr(extensions, "get_middleware"):
        sys.exit("this version of Flower cannot be guarded; fedprune wants flwr >=1.41,<1.42")
    inner = extensions.get_middleware
    extensions.get_middleware = lambda: (Middleware(functools.partial(Guard, devices=Path("devices"))), *inner())
    vars(sql_mixin)["create_engine"] = functools.partial(sqlalchemy.create_engine, **_ONE_AT_A_TIME)
    end_with_parent()
    sys.argv[0] = "flower-superlink"
    flower_superlink()


if __name__ == "__main__":
    main()
