"""The server's Flower app: what ``flwr run`` starts. Its settings are the run-config of pyproject.toml."""

from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid

from fedprune.experiment import load
from fedprune.federated.link.engines import server_app
from fedprune.runs.over_flower import Real
from fedprune.runs.run import simulate

_HERE = Path(__file__).resolve().parent.parent


def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run-config names over Flower's grid; a summary goes to the log."""
    config = context.run_config
    file = Path(str(config["experiment"]))
    source = file if file.is_absolute() else _HERE / file  # the app's own files travel with it
    experiment = load(source, str(config["set"]).split())
    out = Path(str(config["out"])).expanduser() / experiment.name
    print(f"{experiment.name} -> {out.resolve()}", flush=True)
    result = simulate(
        experiment,
        out,
        source=str(file),
        data_dir=str(config["data-dir"]) or None,
        engine=lambda devices, data_dir, drive: drive(grid),
        resume=bool(config["resume"]),
        fresh=not config["resume"],
        progress=_log,
        real=Real(),
    )
    print(
        {key: result[key] for key in ("accuracy_float", "accuracy_int8", "density", "arena_bytes", "bytes")}, flush=True
    )


def _log(row: dict[str, Any]) -> None:
    print({key: value for key, value in row.items() if value not in (None, {})}, flush=True)


app = server_app(main)
