"""A run whose data the server lacks is refused before anything is submitted."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_commands import free_port
from msgspec.structs import replace
from typer.testing import CliRunner

from fedprune.cli.main import app
from fedprune.deployment import devices, server_data
from fedprune.deployment.fleet_folder import Fleet, FleetError, create
from fedprune.experiment import Experiment, load

_SIMULATIONS = Path(__file__).parents[2] / "simulations"


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDPRUNE_DATA_DIR", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")  # where nothing listens


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """One of which something listens at the server's port, and no more than that."""
    made = create(tmp_path / "fleet", ["server.example"], port=free_port(), listen="127.0.0.1")
    with socket.create_server(("127.0.0.1", made.port)):
        yield made


@pytest.mark.parametrize("name", ["keywords", "cifar10", "ucihar", "plays"])
def test_without_a_folder_a_run_is_refused_in_one_line(fleet: Fleet, name: str) -> None:
    devices.enrol(fleet, "kitchen")
    file = str(_SIMULATIONS / f"{name}.toml")
    done = CliRunner().invoke(app, ["run", file, "--fleet", str(fleet.path)])
    assert isinstance(done.exception, FleetError), done.output
    said = str(done.exception)
    assert said.startswith(
        f"{file}: data.name: {name} lies in files, and neither --data-dir nor FEDPRUNE_DATA_DIR says"
    )
    assert said.endswith("add --data-dir DIR")
    assert "\n" not in said
    assert list(fleet.runs.iterdir()) == []


def test_a_folder_without_it_is_named_whichever_way_it_is_given(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keywords = load(_SIMULATIONS / "keywords.toml")
    with pytest.raises(FleetError, match=rf"^a\.toml: data: keywords: no mfcc49x10\.npz in {tmp_path}/"):
        server_data.there(keywords, "a.toml", tmp_path)
    monkeypatch.setenv("FEDPRUNE_DATA_DIR", str(tmp_path / "other"))
    with pytest.raises(FleetError, match=rf"no mfcc49x10\.npz in {tmp_path}/other/"):
        server_data.there(keywords, "a.toml", None)


def test_what_the_server_need_not_have_is_not_asked_for(tmp_path: Path) -> None:
    keywords = load(_SIMULATIONS / "keywords.toml")

    def with_data(**more: str) -> Experiment:
        return replace(keywords, data=replace(keywords.data, **more))

    server_data.there(with_data(partition="own"), "a.toml", None)
    server_data.there(with_data(name="digits"), "a.toml", None)
    server_data.there(with_data(name="nowhere:load"), "a.toml", tmp_path)


def test_a_public_folder_that_is_not_there_is_told_before_devices_are_asked(tmp_path: Path) -> None:
    digits = load(_SIMULATIONS / "digits.toml")
    own = replace(digits.data, name="arrays", partition="own", public_dir=str(tmp_path / "missing"))
    with pytest.raises(FleetError, match=r"^own\.toml: data\.public_dir: .*missing is no folder"):
        server_data.there(replace(digits, data=own), "own.toml", None)
