"""One train message of the keywords experiment, answered on the device: says its seconds and its memory.

It needs the library and nothing beside it, so it can be copied to a Raspberry Pi:
``FEDPRUNE_DATA_DIR=DATA python _pi_device.py keywords.toml [--all-epochs]``.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

_HEAVY = ("torch", "torch._dynamo", "sympy", "matplotlib", "pandas", "pyarrow", "ray", "ai_edge_litert", "scipy")


def main() -> None:
    start = time.perf_counter()
    from fedprune.federated.link.client import client_app

    imported = time.perf_counter()
    before = _loaded()
    idle_bytes = _peak_bytes()
    import torch

    with_torch, torch_bytes = time.perf_counter(), _peak_bytes()
    message = request(Path(sys.argv[1]), epochs=None if "--all-epochs" in sys.argv else 1)
    from fedprune.federated.link.local_grid import LocalGrid
    from fedprune.federated.link.records import from_records

    with LocalGrid(client_app, 30) as grid:
        asked = grid.create_message(message, "train", grid.get_node_ids()[0], "1")
        made = time.perf_counter()
        (reply,) = grid.send_and_receive([asked])
    trained = time.perf_counter()
    if reply.has_error():
        raise SystemExit(reply.error.reason)
    values = from_records(reply.content, from_records(message).masks).values
    said = {
        "torch": torch.__version__,
        "flwr": version("flwr"),
        "client_import_s": imported - start,
        "torch_import_s": with_torch - imported,
        "message_s": trained - made,
        "client_bytes": idle_bytes,
        "torch_bytes": torch_bytes,
        "peak_bytes": _peak_bytes(),
        "examples": values["examples"],
        "seen": values["seen"],
        "loss": values["loss"],
        "loaded_by_client": before,
        "loaded_in_the_end": _loaded(),
    }
    print(json.dumps(said))


def request(path: Path, epochs: int | None = None) -> Any:
    """The content of a train message, as a server makes it: the experiment's net, its pointwise weights pruned."""
    import numpy as np
    import torch

    from fedprune import experiment as experiments
    from fedprune import models, training
    from fedprune.data.keywords import SHAPE
    from fedprune.federated.link.records import to_records
    from fedprune.pruning.topk import kept_count, top_k
    from fedprune.wire.payload import Payload

    experiment = experiments.load(path, [f"training.epochs={epochs}"] if epochs else [])
    torch.manual_seed(0)
    params = dict(training.state_of(models.build(experiment.model, SHAPE, 40)))
    density = float(experiment.method["density"])
    pointwise = [name for name, value in params.items() if value.shape[2:] == (1, 1)]
    masks = {name: top_k(np.abs(params[name]), kept_count(density, params[name].size)) for name in pointwise}
    params |= {name: params[name] * masks[name] for name in pointwise}
    values = {"experiment": experiments.to_json(experiment), "round": 1, "learning_rate": 0.1}
    return to_records(Payload(values, params, masks))


def _loaded() -> list[str]:
    return [name for name in _HEAVY if name in sys.modules]


def _peak_bytes() -> int:
    """The largest resident set of this process, from the kernel's own mark."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
