"""Texts that a user is given: experiments in TOML and in JSON, join files, a fleet's settings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fedprune import experiment as _experiment
from fedprune.deployment import certificates, texts
from fedprune.deployment.device.join import node_config
from fedprune.deployment.devices import Join, _to_toml, read_join
from fedprune.deployment.fleet_folder import FleetError, open_fleet
from fedprune.experiment import ExperimentError, from_json, load, to_json, to_toml
from simulations.benchmarks.fuzzing.target import Target
from simulations.benchmarks.soak.stage import ROOT

_SHIPPED = sorted((ROOT / "simulations").glob("*.toml"))
_FOLDER = Path(tempfile.gettempdir())


def in_a_file(name: str, take: Callable[[Path], None]) -> Callable[[bytes], None]:
    """``take`` of a file that holds the input, in a folder of its own."""

    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            take(path)

    return run


def _toml_seeds() -> Sequence[bytes]:
    return [*(file.read_bytes() for file in _SHIPPED), *(to_toml(load(file)).encode() for file in _SHIPPED[:2])]


def _toml(path: Path) -> None:
    found = load(path)
    assert to_json(from_json(to_json(found))) == to_json(found)
    path.write_text(to_toml(found), encoding="utf-8")
    assert load(path) == found, "its TOML is another experiment"


def _set(path: Path) -> None:
    words = path.read_bytes().decode(errors="surrogateescape").splitlines()
    to_json(load(_SHIPPED[0], words))


def _set_seeds() -> Sequence[bytes]:
    fleet = b"fleet.pi.devices=4\ndata.devices=4\n"
    more = (b'training.epochs=2\nname="other"', b"data.alpha=0.5\nmethod.pool=3", b"seed=3\nmodel=resnet8")
    return [*more, fleet + b'fleet.pi.train_memory_bytes="128 MiB"\nfleet.pi.density=0.1']


def _join_seeds() -> Sequence[bytes]:
    pair, ca = certificates.device(), certificates.authority("fuzz")
    where = (("server.local:8000", None), ("[::1]:8000", 512.0), ("10.0.0.1:443", 64.5))
    secrets = ca.public.decode(), pair.private.decode()
    return [_to_toml(Join("kitchen", address, 3, *secrets, memory)).encode() for address, memory in where]


def _join(path: Path) -> None:
    found = read_join(path)
    node_config(found, None)
    host, _, port = found.address.rpartition(":")
    assert host
    assert 0 < int(port) < 100_000


def _fleet_seeds() -> Sequence[bytes]:
    return [
        texts.config(hosts, 8000, "0.0.0.0", "state.db").encode() for hosts in (("server.local", "10.0.0.1"), ("::1",))
    ]


def _fleet(path: Path) -> None:
    found = open_fleet(path.parent)
    assert found.address
    assert found.local


def _json_seeds() -> Sequence[bytes]:
    every = [load(file) for file in _SHIPPED]
    asked = [msgspec.structs.replace(each, privacy=_experiment.Privacy(0.5, evaluate=True)) for each in every[:2]]
    return [to_json(each).encode() for each in (*every, *asked)]


def _json(data: bytes) -> None:
    found = from_json(data, "experiment.json")
    assert from_json(to_json(found)) == found, "its JSON is another experiment"
    for name in (found.name, *found.fleet):
        assert (_FOLDER / name).resolve().parent == _FOLDER.resolve(), f"{name!r} leads outside its folder"


TARGETS = {
    "toml": Target(_toml_seeds, in_a_file("run.toml", _toml), (ExperimentError,)),
    "set": Target(_set_seeds, in_a_file("words", _set), (ExperimentError,)),
    "join": Target(_join_seeds, in_a_file("kitchen.join", _join), (FleetError,)),
    "fleet": Target(_fleet_seeds, in_a_file("config.toml", _fleet), (FleetError,)),
    "experiment_json": Target(_json_seeds, _json, (ExperimentError,)),
}
