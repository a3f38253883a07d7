"""A fleet's folder and its devices: files, modes, certificates that hold, refusals that leave nothing behind."""

import os
import re
import shlex
import shutil
import ssl
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fleet_commands import CLI, free_port, greeted
from typer.testing import CliRunner

from fedprune.cli.main import app
from fedprune.deployment import devices, plain, runs, state
from fedprune.deployment.device import hints, join
from fedprune.deployment.fleet_folder import Fleet, FleetError, create, open_fleet, renew, write_private
from fedprune.experiment import load

_DIGITS = Path(__file__).parents[2] / "simulations" / "digits.toml"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return create(tmp_path / "fleet", ["server.example", "192.0.2.7"], port=free_port())


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_new_fleet_is_whole_and_its_secrets_are_its_owners_alone(fleet: Fleet) -> None:
    assert _mode(fleet.path) == 0o700
    assert _mode(fleet.path / "ca.key") == _mode(fleet.path / "server.key") == 0o600
    assert open_fleet(fleet.path) == fleet
    assert fleet.address == f"server.example:{fleet.port}"
    assert list(fleet.devices.iterdir()) == []
    link = tomllib.loads((fleet.path / "flwr" / "config.toml").read_text())["superlink"]["fleet"]
    assert link == {"address": f"127.0.0.1:{fleet.port}", "root-certificates": str(fleet.path / "ca.crt")}
    assert len((fleet.path / "README.md").read_text().split("\n\n")) == 5


def _handshake(fleet: Fleet, name: str, ca: Path) -> str | None:
    """The TLS version that a client gets which asks for ``name`` and trusts ``ca``."""
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with greeted(fleet, name, context) as client:
        return client.version()


@pytest.mark.parametrize("name", ["server.example", "192.0.2.7", "localhost", "127.0.0.1"])
def test_the_certificate_holds_for_every_host(fleet: Fleet, name: str) -> None:
    assert _handshake(fleet, name, fleet.path / "ca.crt") == "TLSv1.3"


def test_the_certificate_holds_for_nobody_else_and_under_no_other_authority(fleet: Fleet, tmp_path: Path) -> None:
    other = create(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        _handshake(fleet, "elsewhere.example", fleet.path / "ca.crt")
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(fleet, "server.example", other.path / "ca.crt")


def test_a_server_listens_where_it_is_told_and_its_own_commands_trust_it_there(tmp_path: Path) -> None:
    words = ["server", "init", str(tmp_path / "new"), "--host", "server.example", "--listen"]
    for wrong in ("192.0.2.300", "a b", "fe80::1%eth0", ""):
        done = CliRunner().invoke(app, [*words, wrong])
        assert isinstance(done.exception, FleetError), done.output
        assert str(done.exception).startswith(f"--listen {wrong}: no address; write one of this machine's")
        assert not (tmp_path / "new").exists()
    done = CliRunner().invoke(app, [*words, "192.0.2.5"])
    assert done.exit_code == 0, done.output
    found = open_fleet(tmp_path / "new")
    assert (found.listen, found.local, found.address) == ("192.0.2.5", ("192.0.2.5", 8000), "server.example:8000")
    assert _handshake(found, "192.0.2.5", found.path / "ca.crt") == "TLSv1.3"
    assert _handshake(renew(found), "192.0.2.5", found.path / "ca.crt") == "TLSv1.3"


def test_a_folder_that_is_a_fleet_or_holds_something_is_left_alone(fleet: Fleet, tmp_path: Path) -> None:
    before = _contents(fleet.path)
    with pytest.raises(FleetError, match="is a fleet already"):
        create(fleet.path)
    assert _contents(fleet.path) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").write_text("dear")
    with pytest.raises(FleetError, match="holds something else"):
        create(tmp_path / "full")
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["letter"]
    with pytest.raises(FleetError, match="neither a name nor an address"):
        create(tmp_path / "new", ["server example"])
    assert not (tmp_path / "new").exists()


def test_enrolling_makes_a_key_that_flower_takes_and_a_join_file_for_its_owner(fleet: Fleet) -> None:
    device, file = devices.enrol(fleet, "kitchen", memory_mb=512, tier="pi")
    assert devices.enrolled(fleet) == [device]
    assert (device.partition, device.memory_mb, device.tier, device.node) == (0, 512, "pi", None)
    assert _mode(file) == 0o600
    read = devices.read_join(file)
    assert (read.name, read.address, read.partition) == ("kitchen", fleet.address, 0)
    assert read.ca == (fleet.path / "ca.crt").read_text()
    key = serialization.load_ssh_private_key(read.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp384r1"
    public = serialization.load_ssh_public_key((fleet.devices / "kitchen.pub").read_bytes())
    assert key.public_key() == public
    assert [devices.enrol(fleet, name)[0].partition for name in ("attic", "cellar")] == [1, 2]


def test_two_that_enrol_at_once_get_two_numbers(fleet: Fleet) -> None:
    words = [*CLI, "server", "enrol", str(fleet.path)]
    both = [subprocess.Popen([*words, name], stdout=subprocess.DEVNULL) for name in ("kitchen", "attic", "cellar")]
    assert [process.wait() for process in both] == [0, 0, 0]
    assert sorted(device.partition for device in devices.enrolled(fleet)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["../etc"], "no name for a device"),
        (["Küche"], "no name for a device"),
        (["Kitchen"], "enrolled already"),
        (["attic", "--partition", "0"], "that of kitchen already"),
        (["attic", "--partition", "-1"], "count from 0"),
        (["attic", "--memory-mb", "0"], "above 0"),
        (["attic", "--memory-mb", "nan"], "above 0"),
        (["attic", "--tier", "a b"], "no name of a tier"),
    ],
)
def test_what_cannot_be_enrolled_is_one_line_and_leaves_nothing(fleet: Fleet, words: list[str], said: str) -> None:
    devices.enrol(fleet, "kitchen")
    before = _contents(fleet.path)
    done = CliRunner().invoke(app, ["server", "enrol", str(fleet.path), *words])
    assert isinstance(done.exception, FleetError), done.output
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)
    assert _contents(fleet.path) == before


def test_joining_unpacks_what_the_device_needs_for_its_user_alone(fleet: Fleet, tmp_path: Path) -> None:
    _, file = devices.enrol(fleet, "kitchen", memory_mb=512)
    read = devices.read_join(file)
    folder = join.unpack(read, file)
    assert folder == tmp_path / "home" / ".fedprune" / "kitchen"
    assert _mode(folder) == 0o700
    assert _mode(folder / "device.key") == _mode(folder / "kitchen.join") == 0o600
    before = {path: path.stat().st_ino for path in folder.iterdir()}
    again = join.unpack(devices.read_join(folder / "kitchen.join"), folder / "kitchen.join")  # as its service does
    assert {path: path.stat().st_ino for path in folder.iterdir()} == before  # power may go: nothing is written anew
    assert devices.read_join(again / "kitchen.join") == read
    data = tmp_path / "my data"
    data.mkdir()
    assert join.node_config(read, data) == f'partition-id=0 name="kitchen" data-dir="{data}" memory-mb=512.0'
    with pytest.raises(FleetError, match="no folder"):
        join.node_config(read, tmp_path / "missing")


def test_where_power_goes_while_a_key_is_written_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "device.key"
    write_private(file, b"old")

    def fail(fd: int) -> None:
        raise OSError(5, "the card is gone")

    with monkeypatch.context() as at:
        at.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="the card"):
            write_private(file, b"new")
    assert file.read_bytes() == b"old"
    write_private(file, b"new")
    assert (file.read_bytes(), _mode(file)) == (b"new", 0o600)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["device.key"]


@pytest.mark.parametrize("text", ["", "name = 'kitchen'", "name =", "\x00"])
def test_what_is_no_join_file_is_said_so(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kitchen.join"
    file.write_text(text)
    with pytest.raises(FleetError, match=r"kitchen\.join: not a join file"):
        devices.read_join(file)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "'../kitchen'"), ("address", "'server.local'"), ("address", "'server.local:'"), ("address", "':8000'"),
        ("address", "'server.local:99999'"), ("address", "'a..b:8000'"), ("address", "'a b:8000'"), ("partition", "-1"),
        ("partition", "9223372036854775807"), ("memory_mb", "nan"), ("memory_mb", "inf"), ("memory_mb", "-1.0"),
        ("key", '"a\\u0000b"'), ("ca", "'\u00e9'"),
    ],
)  # fmt: skip
def test_a_join_file_of_impossible_values_is_one_line(fleet: Fleet, key: str, value: str) -> None:
    _, file = devices.enrol(fleet, "kitchen", memory_mb=512.0)
    old = re.compile(rf"^{key} = ('{{3}}.*?'{{3}}|[^\n]*)", re.DOTALL | re.MULTILINE)
    file.write_text(old.sub(lambda _: f"{key} = {value}", file.read_text()), encoding="utf-8")
    with pytest.raises(FleetError, match=rf"kitchen\.join: not a join file .*impossible {key}") as error:
        devices.read_join(file)
    assert "\n" not in str(error.value)


def test_a_record_under_another_name_is_damaged(fleet: Fleet) -> None:
    devices.enrol(fleet, "kitchen")
    record = fleet.devices / "kitchen.json"
    record.write_text(record.read_text().replace("kitchen", "../../kitchen"))
    with pytest.raises(FleetError, match=r"kitchen\.json: damaged"):
        devices.enrolled(fleet)


def test_a_name_of_no_network_is_a_hint(fleet: Fleet) -> None:
    assert "is no address of a machine" in hints.why("a..b:8000", fleet.path / "ca.crt")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_units_are_what_systemd_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f'{tmp_path}/my $HOME 50%:{tmp_path}/"quoted" \\ways')
    fleet = create(tmp_path / "my fleet 100%")
    _, file = devices.enrol(fleet, "kitchen")
    read = devices.read_join(file)
    data = tmp_path / "my data"
    data.mkdir()
    unit, lines = join.install_service(read, join.unpack(read, file), data)
    assert any("enable --now fedprune-kitchen" in line for line in lines)
    for path in (unit, fleet.path / "fedprune-server.service"):
        command = ["systemd-analyze", "verify", "--user", "--man=no", str(path)]
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert not [line for line in done.stderr.splitlines() if path.name in line], done.stderr


def _unit_environment(unit: Path) -> str | None:
    """What systemd's rules make of a unit's Environment= line: quotes, backslashes, and % doubled."""
    for line in unit.read_text().splitlines():
        if line.startswith("Environment="):
            (word,) = shlex.split(line.removeprefix("Environment="))  # where $ is no more than itself, as there
            return word.replace("%%", "%")
    return None


def test_a_service_finds_loaders_of_ones_own_where_the_command_did(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = devices.enrol(fleet, "kitchen")
    read = devices.read_join(file)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for given, expected in (
        ("", None),
        ("/opt/my loaders:/opt/$HOME", "/opt/my loaders:/opt/$HOME"),
        ('/opt/100%:/opt/"a\\b"', '/opt/100%:/opt/"a\\b"'),
        ("own:", f"{tmp_path}/here/own:{tmp_path}/here"),
    ):
        monkeypatch.setenv("PYTHONPATH", given)
        unit, _ = join.install_service(read, join.unpack(read, file), None)
        assert _unit_environment(unit) == (expected and f"PYTHONPATH={expected}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("", "hosts: expected a list"),
        ("hosts = ['a']\nport = 'x'", "port: expected a number"),
        ("hosts = ['a b']\nport = 1", "hosts: expected a list"),
        ("hosts = [", "not valid TOML"),
        ("hosts = ['a']\nport = 1\nlisten = 3", "listen: expected a text"),
        ("hosts = ['a']\nport = 1\nlisten = 'a b'", "listen: expected an address"),
        ("hosts = ['a..b']\nport = 1", "hosts: expected a list"),
        ('hosts = ["a"]\nport = 1\ndatabase = "a\\u0000"', "database: expected a text"),
        ("hosts = " + "[" * 5000, "not valid TOML: lists or tables nest too deep"),
    ],
)
def test_a_damaged_config_is_named(fleet: Fleet, change: str, said: str) -> None:
    (fleet.path / "config.toml").write_text(change)
    with pytest.raises(FleetError, match=rf"config\.toml: {said}"):
        open_fleet(fleet.path)


def test_data_that_goes_by_people_is_shared_among_all_that_are_enrolled(fleet: Fleet) -> None:
    keywords = load(_DIGITS.with_name("keywords.toml"))
    for number in range(4):
        assert runs.for_all(keywords, fleet).data.devices == number
        devices.enrol(fleet, f"pi{number}")
    for others in (load(_DIGITS), load(_DIGITS.with_name("fleet_keywords.toml"))):
        assert runs.for_all(others, fleet) == others


def test_without_a_server_a_run_is_refused_and_the_state_is_what_the_folder_says(fleet: Fleet) -> None:
    devices.enrol(fleet, "kitchen")
    with pytest.raises(FleetError, match="no server runs here"):
        runs.submit(fleet, load(_DIGITS), "digits.toml", data_dir=None, resume=False, fresh=False)
    assert list(fleet.runs.iterdir()) == []
    found = state.look(fleet)
    assert not found.serving
    assert [(one.name, one.registered, one.online, one.last_seen) for one in found.devices] == [
        ("kitchen", False, False, "")
    ]
    with pytest.raises(FleetError, match="not a fleet's folder"):
        open_fleet(fleet.path / "devices")


def test_the_same_in_flowers_own_commands_is_a_shell_script(fleet: Fleet) -> None:
    devices.enrol(fleet, "kitchen")
    text = plain.commands(fleet)
    for word in ("flower-superlink", "--enable-supernode-auth", "flwr supernode register", "flower-supernode"):
        assert word in text
    assert "--insecure" not in text
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
