"""The cells of the table: each is tried on a net's run, and passes or says in one line why it cannot be."""

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import brought_data
import c99_runs
import numpy as np
from brought import Row
from flwr.serverapp import Grid

from fedprune import graph as graphs
from fedprune import tasks
from fedprune.export import litert
from fedprune.export.chip import benching
from fedprune.export.litert.reader import read
from fedprune.federated.link import engines
from fedprune.federated.rounds.model import State
from fedprune.graph import compaction, shapes, units
from fedprune.pruning import masks
from fedprune.runs.drive import rounds
from fedprune.runs.folder import RunFolder
from fedprune.runs.over_flower import link
from fedprune.runs.run import simulate
from fedprune.runs.setting import Setting, prepare
from fedprune.types import Tensor

_HERE = functools.partial(engines.local, workers=1)


class Cannot(Exception):
    """Why a cell is not to be had."""


class Brought(NamedTuple):
    """A net's run that was stopped once and taken up again."""

    setting: Setting
    folder: RunFolder
    result: Mapping[str, Any]
    state: State
    undisturbed: State

    def outputs(self, inputs: Tensor) -> Tensor:
        """torch's, of the trained net."""
        import torch

        with torch.no_grad():
            return self.setting.model(self.state.params)(torch.from_numpy(inputs)).numpy()

    def inputs(self) -> Tensor:
        """The server's examples as the net takes them."""
        return self.setting.schema.normalise(self.setting.public.inputs)

    def file(self) -> bytes:
        """model.tflite."""
        path = self.folder.path / "model.tflite"
        if not path.exists():
            raise Cannot(self.result["no_export"])
        return path.read_bytes()

    def c(self) -> Path:
        """The folder of model.h and model.c."""
        return self.folder.path / "microcontroller"


def brought(row: Row, path: Path) -> Brought:
    """Run the library's own simulation of two devices, stop it after its training, and take it up again."""
    method = brought_data.FEDTINY if "convolutions" in row.net else brought_data.MAGNITUDE
    experiment = brought_data.experiment(row.net, row.data, method)

    def stop(row: Mapping[str, Any]) -> None:
        if row.get("phase") == "train":
            raise KeyboardInterrupt

    try:
        simulate(experiment, path, engine=_HERE, progress=stop)
    except KeyboardInterrupt:
        result = simulate(experiment, path, engine=_HERE, resume=True)
    else:
        raise AssertionError("nothing was trained")
    setting, folder = prepare(experiment, "test"), RunFolder(path)
    apart = RunFolder(path.with_name("undisturbed"))
    apart.begin(experiment)
    whole = list[State]()

    def undisturbed(grid: Grid) -> None:
        over = link(grid, experiment, lambda row: None, None, setting.holds, setting.more())
        whole.append(rounds(over, setting, apart, None, lambda row: None)[0])

    _HERE(2, None, undisturbed)
    return Brought(setting, folder, result, folder.state(), whole[0])


def trains(it: Brought) -> None:
    """Two devices answered, their loss is finite, and every trained weight has moved."""
    rows = [row for row in it.folder.rows() if row["phase"] == "train"]
    assert len(rows) == 1
    assert np.isfinite(rows[0]["loss"])
    assert rows[0]["devices"] == 2
    assert not rows[0]["faults"], rows[0]["faults"]
    first = it.setting.model().state_dict()
    assert any(not np.array_equal(value, it.state.params[name]) for name, value in first.items())


def prunes(it: Brought) -> None:
    """The density asked for, within a hundredth, on all that is pruned; the rest of them is 0."""
    assert it.state.masks
    assert abs(masks.density(it.state.masks) - 0.5) < 0.01
    assert all(not it.state.params[name][~mask].any() for name, mask in it.state.masks.items())


def channels_removed(it: Brought) -> None:
    """With every third unit read by nobody the graph is smaller, and the same to 1e-5."""
    try:
        traced = graphs.trace(it.setting.model(it.state.params), _zeros(it.setting))
    except graphs.UnsupportedOperation as error:
        raise Cannot(str(error)) from error
    graph = graphs.fold_batch_norm(traced)
    told = units.units(graph)
    known = sorted({int(label) for reader in compaction.readers(graph, told) for label in reader.labels} - {0})
    if all(len({*reader.labels.tolist()} - {0}) < 2 for reader in compaction.readers(graph, told)):
        raise Cannot("no layer reads units that could go one by one")
    for reader in compaction.readers(graph, told):
        reader.op.weight.value[:] = reader.without(np.isin(reader.labels, known[::3]))
    smaller, inputs = compaction.compact(graph), it.inputs()
    shapes.check(smaller)
    assert _weights(smaller) < _weights(graph), "nothing was removed"
    one, other = (graphs.run(each, inputs)[each.outputs[0]] for each in (graph, smaller))
    np.testing.assert_allclose(other, one, atol=1e-5)


def _zeros(setting: Setting) -> Any:
    return tasks.example(setting.task, setting.schema.input_shape)


def _weights(graph: graphs.Graph) -> int:
    values = [value for op in graph.operations for value in vars(op).values()]
    return sum(value.value.size for value in values if isinstance(value, graphs.Parameter))


def int8(it: Brought) -> None:
    """Integers throughout, and torch's class on nine of ten examples, or 20 dB of signal to noise."""
    content, inputs = it.file(), it.inputs()
    file = read(content)
    floats = [each.name for graph in (file, *file.subgraphs) for each in graph.tensors if each.dtype.kind == "f"]
    assert not floats
    wanted, found = it.outputs(inputs), litert.run(content, inputs)
    axis = -1 if it.setting.task.tokens else 1
    same = float((wanted.argmax(axis) == found.argmax(axis)).mean())
    noise = 10 * np.log10(wanted.var() / ((wanted - found) ** 2).mean())
    assert same >= 0.9 or noise > 20, f"torch's class on {same:.0%}, {noise:.1f} dB"


def c(it: Brought) -> None:
    """C sources are generated, and the run says what they take."""
    if why := it.result.get("no_c"):
        raise Cannot(why)
    assert f"#define MODEL_ARENA_BYTES {it.result['c99_arena_bytes']}" in (it.c() / "model.h").read_text()


def bit_exact(it: Brought) -> None:
    """The program's outputs are the reference kernels', on extreme and random inputs, and on examples."""
    content = it.file()
    seen = litert.arrange(it.inputs()[:4], litert.ports(read(content)).input)
    levels = np.concatenate([c99_runs.inputs(content, 7), seen])
    wanted, _ = benching.expected(content, levels.reshape(len(levels), -1))
    if wanted is None:
        raise Cannot("no runtime here has both a GELU and TensorFlow Lite Micro's roots of 16 bits")
    found = c99_runs.computed_in(it.c(), levels, [*c99_runs.WARNINGS, "-O0"])
    np.testing.assert_array_equal(found, wanted)
    assert np.ptp(wanted.astype(int)) > 10, "all inputs give the same"


def resumed(it: Brought) -> None:
    """The run that was stopped after its training has the bits of one that was not."""
    for kind in ("params", "masks", "memory"):
        one, other = getattr(it.state, kind), getattr(it.undisturbed, kind)
        assert one.keys() == other.keys()
        assert [name for name in one if one[name].tobytes() != other[name].tobytes()] == []


TRIED: Mapping[str, Callable[[Brought], None]] = {
    "trains": trains,
    "prunes": prunes,
    "channels removed": channels_removed,
    "int8": int8,
    "C99": c,
    "bit-exact": bit_exact,
    "resumed": resumed,
}


def told(row: Row, path: Path) -> dict[str, str]:
    """Cell -> what is wrong with it, beside what its row says; empty where all is well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        it = brought(row, path)
        wrong = {}
        for cell, tried in TRIED.items():
            try:
                tried(it)
                said = ""
            except Cannot as error:
                said = str(error)
            except AssertionError as error:
                said = f"wrong: {error}"
            except Exception as error:
                said = f"a traceback: {type(error).__name__}: {error}"
            if said != row.cannot.get(cell, ""):
                wrong[cell] = said or "can be"
        return wrong
