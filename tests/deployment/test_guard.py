"""Who may ask the server what, and how much of it: the guard before Flower's SuperLink."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from starlette.types import Receive, Scope, Send

from fedprune.deployment import certificates
from fedprune.deployment.superlink import Guard

DEVICE = certificates.device()
STRANGER = certificates.device()
PULL, ADMIN = "/v1/fleet/pull-messages", "/v1/control/list-runs"


def signed(pair: certificates.Pair, age: timedelta = timedelta()) -> dict[str, str]:
    """What Flower's devices send of themselves."""
    key, time = load_ssh_private_key(pair.private, None), (datetime.now(UTC) - age).isoformat()
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
        TIMESTAMP_HEADER: time,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, time.encode())).decode(),
    }


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "kitchen.pub").write_bytes(DEVICE.public)
    return tmp_path


def status(keys: Path, path: str, source: str, size: int = 0, **options: object) -> int:
    """What a POST of so many bytes from an address is answered; 299 where Flower would have got it."""

    async def flower(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask() -> int:
        transport = httpx.ASGITransport(app=Guard(flower, keys), client=(source, 4000))
        async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.1:8000") as client:
            options.setdefault("content", b"x" * size)
            return (await client.post(path, **options)).status_code  # type: ignore[arg-type]

    return asyncio.run(ask())


def test_administration_is_for_the_server_itself(keys: Path) -> None:
    assert status(keys, ADMIN, "10.0.0.1") == 299
    assert status(keys, ADMIN, "10.0.0.2") == 403
    assert status(keys, ADMIN, "10.0.0.2", headers=signed(DEVICE)) == 403
    assert status(keys, PULL, "10.0.0.2") == 299  # Flower asks for the key
    assert status(keys, "/v1/fleet", "10.0.0.2") == 403


def test_only_enrolled_devices_may_send_much(keys: Path) -> None:
    much = 2**16 + 1
    assert status(keys, PULL, "10.0.0.2", 2**16) == 299
    assert status(keys, PULL, "10.0.0.2", much) == 413
    assert status(keys, PULL, "10.0.0.1", much) == 299
    assert status(keys, PULL, "10.0.0.2", much, headers=signed(DEVICE)) == 299
    assert status(keys, PULL, "10.0.0.2", much, headers=signed(STRANGER)) == 413
    assert status(keys, PULL, "10.0.0.2", much, headers=signed(DEVICE, timedelta(hours=1))) == 413
    forged = {**signed(STRANGER), FLEET_HTTP_PUBLIC_KEY_HEADER: signed(DEVICE)[FLEET_HTTP_PUBLIC_KEY_HEADER]}
    assert status(keys, PULL, "10.0.0.2", much, headers=forged) == 413
    for name in signed(DEVICE):
        assert status(keys, PULL, "10.0.0.2", much, headers={**signed(DEVICE), name: "nonsense"}) == 413
    (keys / "kitchen.pub").unlink()  # revoked
    assert status(keys, PULL, "10.0.0.2", much, headers=signed(DEVICE)) == 413


def test_nobody_may_send_without_end(keys: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    assert status(keys, PULL, "10.0.0.2", content=pieces(), headers=signed(DEVICE)) == 411
    for length in (str(2**28 + 1), "-1", "many", "1" * 30):
        assert status(keys, PULL, "10.0.0.2", headers={**signed(DEVICE), "content-length": length}) == 413
