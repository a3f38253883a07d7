"""What a device's process takes for a training message of a large sparse model: from its bytes to the reply's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fedprune import models, training
from fedprune.counter_rng import uniforms
from fedprune.graph import trace
from fedprune.graph.message import to_text
from fedprune.native import library
from fedprune.pruning import masks
from fedprune.wire.payload import Payload, from_blobs, to_blobs

pytestmark = [
    pytest.mark.skipif(library.library() is None, reason="the compiled trainer is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="Linux counts what a process took at most"),
]
TOOK = 22.7e6
"""Of it 19.4 MB the arena. The weights alone are 44.7 MB, their masks 11.2."""
DEVICE = """
import json, sys
from pathlib import Path
import numpy as np
from fedprune.training import native
from fedprune.training.lean import Lean, return_freed_memory
from fedprune.types import Sgd
from fedprune.wire.payload import Payload, from_blobs, to_blobs

def status(key):  # a child's ru_maxrss may be its parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

folder, lean = Path(sys.argv[1]), Lean(recompute=True)
rng = np.random.default_rng(0)
batches = [(rng.normal(size=(8, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, 8))] * 2
native.installed()
before = status("VmRSS")
return_freed_memory()
request = from_blobs({}, {path.stem: path.read_bytes() for path in folder.glob("*.sent")}, lazily=True)
model = native.model((folder / "net").read_text(), request.tensors)
_, trained = native.train(model, batches, Sgd(0.01, 0.9, 1e-4), request.masks, examples=8, lean=lean)
for name, blob in to_blobs(Payload({}, trained), request.masks).items():
    (folder / f"{name}.back").write_bytes(blob)
took = status("VmHWM") - before
from fedprune.budgets import natively

print(json.dumps({"took": took, "arena": natively.training(model, request.masks, 8, lean).total}))
"""


def test_a_large_sparse_model_is_never_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.build("resnet18", (3, 32, 32), 10)
    state = training.state_of(model)
    layers = [name for name, each in model.named_parameters() if each.ndim > 1][1:-1]
    kept = {name: uniforms(0, name, state[name].shape) < 0.01 for name in layers}
    sent = Payload({}, masks.apply(state, kept), kept)
    slots = {name: (value.shape, value.dtype.name, True) for name, value in state.items()}
    (tmp_path / "net").write_text(to_text(trace(model, torch.zeros(1, 3, 32, 32)), slots))
    for name, blob in to_blobs(sent).items():
        (tmp_path / f"{name}.sent").write_bytes(blob)
    done = subprocess.run([sys.executable, "-c", DEVICE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["arena"] < said["took"] < 1.15 * TOOK
    back = from_blobs({}, {"tensors": (tmp_path / "tensors.back").read_bytes()}, kept)
    assert back.tensors.keys() == state.keys()
    assert all(np.array_equal(back.tensors[name] != 0, kept[name]) for name in layers)
    assert any(np.any(back.tensors[name] != sent.tensors[name]) for name in layers)
