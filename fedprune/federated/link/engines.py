"""The two ways to run a whole federation on one machine: in these processes, or in Flower's own simulation on Ray."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedprune.data.loading import DATA_DIR
from fedprune.experiment import ExperimentError
from fedprune.federated.link.client import SIMULATED, client_app
from fedprune.federated.link.generators import keep_apart
from fedprune.federated.link.local_grid import LocalGrid, cores

Engine = Callable[[int, str | None, Callable[[Grid], None]], None]
"""(devices, data directory, server's side): runs the server's side over a Grid of so many devices."""

_ANSWERS_S = 10.0


def local(devices: int, data_dir: str | None, drive: Callable[[Grid], None], *, workers: int | None = None) -> None:
    """The same ServerApp code and ClientApp on a LocalGrid, by default with a worker for each core."""
    with _told(data_dir), LocalGrid(client_app, devices, workers or cores()) as grid:
        drive(grid)


def ray(devices: int, data_dir: str | None, drive: Callable[[Grid], None], *, address: str = "") -> None:
    """Flower's own simulation: one Ray actor a core. What the server's side raises is raised here.

    With an ``address``, on the cluster that is there, where every machine has the data at the same path; else on a
    cluster of its own on this machine. ExperimentError where no cluster answers.
    """
    for switch in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
        os.environ.setdefault(switch, "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    import ray  # noqa: F401
    from flwr.simulation.run_simulation import run_simulation

    keep_apart()
    raised: list[BaseException] = []

    def main(grid: Grid, context: Context) -> None:
        try:
            drive(grid)
        except BaseException as error:
            raised.append(error)

    own: dict[str, Any] = {} if address else {"init_args": {"num_cpus": cores()}}
    with _told(data_dir, {SIMULATED: "1"}) as given, cluster(address, given) if address else nullcontext():
        run_simulation(
            server_app(main),
            client_app(),
            num_supernodes=devices,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, **own},
        )
    if raised:
        raise raised[0]


@contextmanager
def cluster(address: str, variables: Mapping[str, str]) -> Iterator[None]:
    """Be connected to a Ray cluster whose workers import what this process does, with these environment variables.

    ExperimentError where none answers.
    """
    import ray

    told = {**variables, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), os.environ.get("PYTHONPATH", "")])}
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():
            socket.create_connection((host, int(port)), timeout=_ANSWERS_S).close()  # which ray would try for minutes
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": told})
    except (OSError, RuntimeError, ValueError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExperimentError(f"--ray {address}: no Ray cluster can be used there: {why}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _told(data_dir: str | None, more: Mapping[str, str] = MappingProxyType({})) -> Iterator[Mapping[str, str]]:
    """An environment that tells workers where data lies, and what it says; afterwards it is as it was."""
    given = {**({DATA_DIR: os.path.abspath(data_dir)} if data_dir else {}), **more}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield given
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def server_app(main: Callable[[Grid, Context], None]) -> ServerApp:
    """A ServerApp around a function."""
    keep_apart()
    app = ServerApp()
    app.main()(main)
    return app
