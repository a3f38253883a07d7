"""A fleet's folder: certificates, settings, devices, what the server and Flower's own commands read from it."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fedprune.deployment import certificates, texts
from fedprune.experiment import ExperimentError, toml_files
from fedprune.experiment.toml_files import TomlError

LINK = "fleet"
"""What Flower's own commands call a fleet's SuperLink, once FLWR_HOME is the fleet's."""
_HERE = ("localhost", "127.0.0.1")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*")
_LONGEST_HOST = 253  # letters of a name, by the rules of DNS


class FleetError(ExperimentError):
    """What a user can mend about a fleet, in one line that names the file."""


@dataclass(frozen=True)
class Fleet:
    """A fleet's folder and its config.toml."""

    path: Path
    """Absolute."""
    hosts: tuple[str, ...]
    """What devices call the server; join files carry the first."""
    port: int
    listen: str
    """Address that the server listens on; 0.0.0.0 is all of them."""
    database: str

    @property
    def address(self) -> str:
        """What devices connect to, host:port."""
        host = self.hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def local(self) -> tuple[str, int]:
        """Where this machine's own commands reach the server."""
        return ("127.0.0.1" if self.listen in ("0.0.0.0", "::", *_HERE) else self.listen), self.port

    @property
    def devices(self) -> Path:
        """A JSON file, a public key and a join file for each device."""
        return self.path / "devices"

    @property
    def runs(self) -> Path:
        """A folder for each run's results."""
        return self.path / "runs"

    @property
    def app(self) -> Path:
        """What ``flwr run`` submits: a page that names the apps of the installed package."""
        return self.path / "app"

    def listens(self) -> bool:
        """Whether the server runs, as far as its port says."""
        with socket.socket() as client:
            client.settimeout(2)
            try:
                return client.connect_ex(self.local) == 0
            except OSError:  # ``listen`` is no name that this machine knows
                return False


def create(path: Path, hosts: Sequence[str] = (), *, port: int = 8000, listen: str = "0.0.0.0") -> Fleet:
    """Make a fleet's folder. FleetError where it is one already, where it holds something, or where a host is none.

    ``listen`` is the address that the server listens at.
    """
    path = path.absolute()
    if (path / "config.toml").exists():
        raise FleetError(f"{path}: is a fleet already; start it with: fedprune server start {path}")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FleetError(f"{path}: holds something else; choose a new or an empty folder")
    hosts = _named(hosts) or (socket.gethostname(),)
    if not 1 <= port <= 65535:
        raise FleetError(f"--port {port}: outside 1 to 65535")
    if not _is_address(listen):
        raise FleetError(f"--listen {listen}: no address; write one of this machine's, such as 192.168.1.10")
    fleet = Fleet(path, hosts, port, listen, "state.db")
    ca = certificates.authority(path.name)
    server = certificates.server(ca, _certified(fleet))
    for folder in (path, path / "devices", path / "runs", path / "logs", path / "app", path / "flwr"):
        folder.mkdir(mode=0o700, parents=folder == path, exist_ok=True)
    for name, pair in (("ca", ca), ("server", server)):
        write_private(path / f"{name}.key", pair.private)
        (path / f"{name}.crt").write_bytes(pair.public)
    program = [str(Path(sys.executable).with_name("fedprune")), "server", "start", str(path)]
    (path / "fedprune-server.service").write_text(texts.unit(f"fedprune server of {path}", program, path))
    (path / "README.md").write_text(texts.readme(path))
    (path / "config.toml").write_text(texts.config(hosts, port, listen, fleet.database))  # last: now it is a fleet
    flower_home(fleet)
    return fleet


def open_fleet(path: Path) -> Fleet:
    """The fleet of a folder. FleetError where there is none, or where its config.toml says nonsense."""
    path = path.absolute()
    file = path / "config.toml"
    try:
        table = toml_files.read(file)
    except OSError as error:
        raise FleetError(f"{path}: not a fleet's folder; make one with: fedprune server init {path}") from error
    except TomlError as error:
        raise FleetError(f"{file}: not valid TOML: {error}") from error
    hosts, port = table.get("hosts"), table.get("port")
    listen, database = table.get("listen", "0.0.0.0"), table.get("database", "state.db")
    if not isinstance(hosts, list) or not hosts or not all(isinstance(h, str) and is_host(h) for h in hosts):
        raise FleetError(f'{file}: hosts: expected a list of names or addresses, such as ["server.local"]')
    if type(port) is not int or not 1 <= port <= 65535:
        raise FleetError(f"{file}: port: expected a number between 1 and 65535")
    for key, value in (("listen", listen), ("database", database)):
        if not isinstance(value, str) or not value or not value.isprintable():
            raise FleetError(f"{file}: {key}: expected a text")
    if not is_host(listen):
        raise FleetError(f"{file}: listen: expected an address, such as 0.0.0.0")
    return Fleet(path, tuple(hosts), port, listen, database)


def renew(fleet: Fleet, hosts: Sequence[str] = ()) -> Fleet:
    """The fleet with a new certificate for its server, by its own authority, and with these hosts where there are any.

    Devices trust the authority, so that they need nothing new. FleetError where a host is none, or where the authority
    is lost, damaged or out of date; nothing is changed then.
    """
    hosts = _named(hosts) or fleet.hosts
    renewed = replace(fleet, hosts=hosts)
    try:
        ca = certificates.Pair((fleet.path / "ca.key").read_bytes(), (fleet.path / "ca.crt").read_bytes())
        pair = certificates.server(ca, _certified(renewed))
    except OSError as error:
        raise FleetError(
            f"{error.filename}: cannot be read ({error.strerror}); put the copy back that you keep"
        ) from error
    except ValueError as error:
        raise FleetError(f"{fleet.path}/ca.crt and ca.key: {error}; put the copy back that you keep") from error
    write_private(fleet.path / "server.key.half", pair.private)
    (fleet.path / "server.crt.half").write_bytes(pair.public)
    for name in ("server.key", "server.crt"):
        (fleet.path / f"{name}.half").replace(fleet.path / name)
    if hosts != fleet.hosts:
        half = fleet.path / "config.toml.half"
        half.write_text(texts.config(hosts, fleet.port, fleet.listen, fleet.database))
        half.replace(fleet.path / "config.toml")
    return renewed


@contextmanager
def alone(fleet: Fleet) -> Iterator[None]:
    """While no other process is in here: two that enrol at once would give one number to two devices."""
    import fcntl  # not on every machine that reads a join file

    folder = os.open(fleet.devices, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def is_host(text: str) -> bool:
    """Whether a text may name a machine, or be its address."""
    labels = [] if ":" in text else text.split(".")
    return len(text) <= _LONGEST_HOST and all(0 < len(each) < 64 for each in labels) and bool(_HOST.fullmatch(text))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return text in _HERE
    return is_host(text)


def _certified(fleet: Fleet) -> tuple[str, ...]:
    """What the server's certificate holds for: its hosts, and wherever this machine's own commands reach it."""
    return _named((*fleet.hosts, *_HERE, fleet.local[0]))


def _named(hosts: Sequence[str]) -> tuple[str, ...]:
    for host in hosts:
        if not is_host(host):
            raise FleetError(f"--host {host}: neither a name nor an address; write e.g. server.local or 192.168.1.10")
    return tuple(dict.fromkeys(hosts))


def flower_home(fleet: Fleet) -> Path:
    """FLWR_HOME of a fleet; what Flower reads there, and of the app, is as this version of fedprune writes it."""
    home = fleet.path / "flwr"
    home.mkdir(mode=0o700, exist_ok=True)
    host, port = fleet.local
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    (fleet.app / "pyproject.toml").write_text(texts.app())
    (home / "config.toml").write_text(texts.flower_config(LINK, where, fleet.path / "ca.crt"))
    return home


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, and nobody else at any time: the old one stays until all is on disk.

    One that is there with this content is left alone: a device does this at every start, when power is lost most.
    """
    if path.is_file() and stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_bytes() == content:
        return
    half = path.with_name(f"{path.name}.half")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
