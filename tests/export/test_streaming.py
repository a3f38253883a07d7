"""Models that remember: variables in C, beside TensorFlow Lite Micro, run after run."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from c99_files import Draft
from c99_runs import CHECKS, compiler, computed_in

from fedprune.export import tflm
from fedprune.export.c99 import boards
from fedprune.export.chip import benching, foreign
from fedprune.export.inspection.file import inspect
from fedprune.export.litert.flatbuffer import File, FileOperator, FileTensor, pack
from fedprune.export.litert.reader import ModelError, read

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")

_RESOURCE = FileTensor((), np.dtype(np.uint8), kind="RESOURCE")


def handle(draft: Draft, name: str) -> int:
    draft.tensors.append(_RESOURCE)
    options = schema.VarHandleOptionsT(container="", sharedName=name)
    number = schema.BuiltinOperator.VAR_HANDLE
    last = len(draft.tensors) - 1
    draft.operators.append(FileOperator(number, 1, (), last, options, schema.BuiltinOptions.VarHandleOptions))
    return last


def assign(draft: Draft, variable: int, value: int) -> None:
    draft.operators.append(FileOperator(schema.BuiltinOperator.ASSIGN_VARIABLE, 1, (variable, value), -1, None, 0))


def beginning(**values: np.ndarray) -> File:
    """The subgraph that CALL_ONCE runs."""
    draft = Draft((1, 1))
    draft.tensors.clear()
    for name, data in values.items():
        assign(draft, handle(draft, name), draft.constant(data, np.int8, scales=np.array([0.05], np.float32)))
    return File(draft.tensors, draft.operators, (), ())


def call_once(draft: Draft) -> None:
    options, kind = schema.CallOnceOptionsT(initSubgraphIndex=1), schema.BuiltinOptions.CallOnceOptions
    draft.operators.append(FileOperator(schema.BuiltinOperator.CALL_ONCE, 1, (), -1, options, kind))


def streaming(first: np.ndarray | None = None, *, late: bool = False, twice: bool = False) -> bytes:
    """A convolution in time over the last five frames, of which each run brings one.

    With ``late`` what was remembered is used again after it has changed; ``twice`` are two such layers.
    """
    draft = Draft((1, 1, 6, 3), grid=(0.05, -3))
    begins = first is not None
    if begins:
        call_once(draft)
    last = draft.input
    names = ["frames", "more"][: 1 + twice]
    for name in names:
        grid, shape = draft.grid(last), draft.shape(last)
        kept = draft.activation((1, 4, *shape[2:]), grid)
        variable = handle(draft, name)
        draft.add("READ_VARIABLE", (variable,), kept)
        whole = draft.concat([kept, last], 1)
        rest = draft.slice(whole, (0, 1, 0, 0), (1, 5, *shape[2:]), (1, 1, 1, 1))
        assign(draft, variable, rest)
        last = draft.conv(whole, 3, (5, 1), same=False, density=1)
        if late:
            again = draft.conv(kept, 3, (4, 1), same=False, density=1)
            last = draft.both("ADD", last, again, draft.grid(last))
    graphs = [beginning(**dict.fromkeys(names, first))] if begins and first is not None else []
    return pack(File(draft.tensors, draft.operators, (draft.input,), (last,), graphs))


FIRST = np.full((1, 4, 6, 3), -3), np.arange(72).reshape(1, 4, 6, 3) - 36


@pytest.mark.parametrize(
    "model",
    [
        streaming(FIRST[0]),
        streaming(FIRST[1]),
        streaming(),
        streaming(FIRST[1], late=True),
        streaming(FIRST[0], twice=True),
    ],
    ids=["zeros", "values of its own", "nothing to begin with", "used again", "two layers"],
)
def test_a_streaming_model_remembers_as_the_runtime_does(model: bytes, tmp_path: Path) -> None:
    if boards.missing("host"):
        pytest.skip("a compiler is not installed")
    card = json.loads(foreign.files(model, "theirs", compare=True)["model_card.json"])
    assert card["compared"] == {"inputs": 20, "beside": "TensorFlow Lite Micro", "differing": 0}
    folder = foreign.write(model, tmp_path, "theirs").c99_source.parent
    given = np.random.default_rng(1).integers(-128, 128, (30, 18)).astype(np.int8)
    wanted = tflm.levels(model, given)
    assert len(np.unique(wanted, axis=0)) > 20
    np.testing.assert_array_equal(computed_in(folder, given), wanted)
    if not boards.missing("cortex-m4"):
        np.testing.assert_array_equal(boards.run(folder, "cortex-m4", given).outputs, wanted)


def test_a_model_may_begin_anew(tmp_path: Path) -> None:
    model = streaming(FIRST[1])
    folder = foreign.write(model, tmp_path, "theirs").c99_source.parent
    assert re.search(r"^void model_reset\(void\);$", (folder / "model.h").read_text(), re.MULTILINE)
    source = (
        '#include <stdio.h>\n#include "model.h"\nint main(void) { for (int run = 0; run < 6; run++) {\n'
        "if (run == 3) model_reset();\nfor (int i = 0; i < MODEL_INPUT_BYTES; i++) model_input()[i] = (int8_t)i;\n"
        "fwrite(model_run(), 1, MODEL_OUTPUT_BYTES, stdout); } return 0; }\n"
    )
    (folder / "anew.c").write_text(source)
    subprocess.run([compiler(), *CHECKS, "anew.c", "model.c", "-o", "anew"], cwd=folder, check=True)
    said = subprocess.run([folder / "anew"], check=True, capture_output=True).stdout
    runs = np.frombuffer(said, np.int8).reshape(6, -1)
    np.testing.assert_array_equal(runs[:3], runs[3:])
    assert (runs[0] != runs[2]).any()


def test_a_streaming_model_is_looked_at_and_measured() -> None:
    model = streaming(FIRST[1])
    rows = [row.operator for row in inspect(model).rows]
    assert rows.count("CONV_2D") == 1
    assert rows[0] == "CALL_ONCE"
    assert rows[-2:] == ["VAR_HANDLE", "ASSIGN_VARIABLE"]
    if not boards.missing("cortex-m4"):
        assert benching.on_chip(model, "cortex-m4")["C99, smallest"].differing == 0


def test_what_a_variable_cannot_begin_with_is_one_line() -> None:
    file = read(streaming(FIRST[1]))
    graph = file.subgraphs[0]
    at = graph.operators[1].inputs[1]
    tensors = [*graph.tensors, graph.tensors[at]]
    tensors[at] = replace(tensors[at], data=None)
    made = FileOperator(schema.BuiltinOperator.RELU, 1, (len(graph.tensors),), at, None, 0)
    changed = replace(graph, tensors=tensors, operators=[made, *graph.operators])
    with pytest.raises(ModelError, match="READ_VARIABLE, begins with values that are no constant of its shape"):
        foreign.files(pack(replace(file, subgraphs=[changed])), "theirs")
