"""flower-superlink behind a guard: from other machines only the devices' part of it can be reached.

Flower 1.41 serves devices, runs and administration on one port, and asks only devices for a key: whoever reaches that
port could submit code to the whole fleet, or let a device of his own in.
"""

from __future__ import annotations

import sys

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

_DEVICES = "/v1/fleet/"


class Guard:
    """Passes on what comes from this machine, and what devices ask; answers 403 to the rest."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before ``app``."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan" or scope.get("path", "").startswith(_DEVICES) or _from_here(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            body = b"only from the server itself\n"
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1008})


def _from_here(scope: Scope) -> bool:
    # A connection of a machine with itself has one address at both ends; nobody else can have it and get answers.
    client, server = scope.get("client"), scope.get("server")
    return bool(client and server and client[0] == server[0])


def main() -> None:
    """flower-superlink with its own arguments, guarded."""
    from flwr.superlink import extensions
    from flwr.superlink.cli import flower_superlink

    if not hasattr(extensions, "get_middleware"):
        sys.exit("this version of Flower cannot be guarded; fedprune wants flwr >=1.41,<1.42")
    inner = extensions.get_middleware
    extensions.get_middleware = lambda: (Middleware(Guard), *inner())
    sys.argv[0] = "flower-superlink"
    flower_superlink()


if __name__ == "__main__":
    main()
