"""One train message, answered on the device: says its seconds and its memory.

It needs the library and nothing beside it: it can be copied to a Raspberry Pi, as can a message that `pi` has written,
``FEDPRUNE_DATA_DIR=DATA python _pi_device.py MESSAGE``.
"""

import json
import pickle
import sys
import time
from pathlib import Path

_HEAVY = ("torch", "sympy", "matplotlib", "pandas", "pyarrow", "ray", "ai_edge_litert", "scipy")


def main() -> None:
    start = time.perf_counter()
    from fedprune.federated.link.client import client_app

    imported, idle_bytes = time.perf_counter(), _peak_bytes()
    before = _loaded()
    message = pickle.loads(Path(sys.argv[1]).read_bytes())
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
        "client_import_s": imported - start,
        "message_s": trained - made,
        "client_bytes": idle_bytes,
        "peak_bytes": _peak_bytes(),
        "examples": values["examples"],
        "seen": values["seen"],
        "loss": values["loss"],
        "loaded_by_client": before,
        "loaded_in_the_end": _loaded(),
    }
    print(json.dumps(said))


def _loaded() -> list[str]:
    return [name for name in _HEAVY if name in sys.modules]


def _peak_bytes() -> int:
    """The largest resident set of this process, from the kernel's own mark."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
