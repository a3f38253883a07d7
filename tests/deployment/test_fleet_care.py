"""What a fleet's owner does later: take devices out, and give the server a new certificate."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from fleet_commands import entries, free_port, greeted, running
from typer.testing import CliRunner

from fedprune.cli.main import app
from fedprune.deployment import certificates, devices
from fedprune.deployment.fleet_folder import Fleet, FleetError, create, open_fleet, renew


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return create(tmp_path / "fleet", ["server.example"], port=free_port(), listen="127.0.0.1")


# -- taking out


def test_a_device_is_taken_out_without_a_server(fleet: Fleet) -> None:
    for name in ("kitchen", "attic"):
        devices.enrol(fleet, name)
    done = CliRunner().invoke(app, ["server", "revoke", str(fleet.path), "kitchen"])
    assert done.exit_code == 0, done.output
    assert "taken out; the server turns it away from its next start on" in done.output
    assert sorted(file.name for file in fleet.devices.iterdir()) == ["attic.join", "attic.json", "attic.pub"]
    again = CliRunner().invoke(app, ["server", "revoke", str(fleet.path), "kitchen"])
    assert isinstance(again.exception, FleetError)
    assert str(again.exception) == (
        f"{fleet.devices}/kitchen.json: no device of this name is enrolled; there are: attic"
    )
    assert devices.enrol(fleet, "cellar")[0].partition == 0  # its number is free


def test_a_running_server_forgets_keys_at_once_and_others_when_it_starts(fleet: Fleet, tmp_path: Path) -> None:
    for name in ("kitchen", "attic"):
        devices.enrol(fleet, name)
    serve = ["server", "start", str(fleet.path)]
    with running(serve, tmp_path, tmp_path / "first.log", "is ready at"):
        nodes = {device.name: device.node for device in devices.enrolled(fleet)}
        assert devices.revoke(fleet, "kitchen")
    assert not devices.revoke(fleet, "attic")
    (fleet.devices / "cellar.json").write_text('{"name": "cel')  # as after a power cut: it must let nobody stay
    with running(serve, tmp_path, tmp_path / "second.log", "is ready at"):
        assert devices.known(fleet) == set()
    found = entries(fleet.path / "logs" / "server.jsonl")
    taken_out = [entry["text"] for entry in found if entry["event"] == "expel"]
    assert taken_out == [f"node {nodes['attic']} is taken out: its device is not enrolled any more"]
    assert {"time", "level", "event", "text"} <= set.intersection(*(set(entry) for entry in found))
    registered = [entry["device"] for entry in found if entry["event"] == "register" and "device" in entry]
    assert registered == ["kitchen", "attic"]
    (wrong,) = [entry["text"] for entry in found if entry["level"] == "ERROR"]
    assert "cellar.json: damaged" in wrong
    events = [entry["event"] for entry in found if entry["event"] in ("start", "expel", "ready", "stop")]
    assert events == ["start", "ready", "stop", "start", "expel", "ready", "stop"]
    assert not [entry for entry in found if "\x1b" in entry["text"] or '" 200' in entry["text"]]


# -- renewing


def _shown(fleet: Fleet, name: str) -> str:
    """The serial number of the certificate that a client gets which trusts this fleet's authority."""
    with greeted(fleet, name, ssl.create_default_context(cafile=str(fleet.path / "ca.crt"))) as client:
        return str((client.getpeercert() or {})["serialNumber"])


def test_a_new_certificate_is_trusted_by_devices_that_know_nothing_of_it(fleet: Fleet) -> None:
    authority = (fleet.path / "ca.crt").read_bytes()
    config = (fleet.path / "config.toml").read_text()
    before = _shown(fleet, "server.example")
    assert renew(fleet) == fleet
    assert _shown(fleet, "server.example") != before
    assert (fleet.path / "config.toml").read_text() == config
    assert (fleet.path / "server.key").stat().st_mode & 0o777 == 0o600

    words = ["server", "renew", str(fleet.path), "--host", "new.example", "--host", "192.0.2.9"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "holds for new.example, 192.0.2.9 until 20" in done.output
    assert "Devices that call it server.example no longer trust it" in done.output
    found = open_fleet(fleet.path)
    assert found == Fleet(fleet.path, ("new.example", "192.0.2.9"), fleet.port, "127.0.0.1", "state.db")
    for name in ("new.example", "192.0.2.9", "localhost", "127.0.0.1"):
        _shown(found, name)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        _shown(found, "server.example")
    assert (fleet.path / "ca.crt").read_bytes() == authority
    assert not list(fleet.path.glob("*.half"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda path: (path / "ca.key").unlink(),
            r"ca\.key: cannot be read \(No such file or directory\); put the copy",
        ),
        (lambda path: (path / "ca.key").write_text("x"), r"ca\.crt and ca\.key: .*put the copy back"),
        (lambda path: (path / "ca.key").write_bytes(certificates.authority("x").private), "the key is not that of the"),
    ],
)
def test_without_the_authority_nothing_is_renewed(fleet: Fleet, damage: Any, said: str) -> None:
    damage(fleet.path)
    before = {file.name: file.read_bytes() for file in fleet.path.glob("server.*")}
    with pytest.raises(FleetError, match=said) as error:
        renew(fleet, ["new.example"])
    assert "\n" not in str(error.value)
    assert {file.name: file.read_bytes() for file in fleet.path.glob("server.*")} == before
    with pytest.raises(FleetError, match="--host a b: neither a name nor an address"):
        renew(fleet, ["a b"])
