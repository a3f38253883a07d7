"""Somebody else's .tflite as C: whatever it holds, one line or all of its files."""

import random
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from ai_edge_litert import schema_py_generated as schema
from brought_files import byte_ends, float_ends, two_ends
from c99_files import Draft
from c99_nets import chain
from c99_runs import CHECKS, compiler
from export_files import changed, on_tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from fedprune.export import apart, litert, tflm
from fedprune.export.c99 import boards
from fedprune.export.c99.encoding import DENSE, MOST_SEGMENTS, encode
from fedprune.export.chip import benching, foreign
from fedprune.export.inspection.file import inspect
from fedprune.export.litert.flatbuffer import File, FileOperator, pack
from fedprune.export.litert.reader import ModelError, operator_name, read
from fedprune.export.tflm.decode import DECODE, packed, weight_of
from fedprune.export.tflm.unpack import unpacked


def equal_values(classes: int = 512) -> bytes:
    """Return a model whose softmax gets as many equal values: an assertion of the interpreters does not hold there."""
    draft = Draft((1, 1, 1, 4))
    zeros = np.zeros((classes, 1, 1, 4), np.int8)
    last = draft.conv(draft.input, classes, levels=zeros, bias=np.zeros(classes), grid=(0.2, 11))
    return draft.file(draft.unary("SOFTMAX", last, (1 / 256, -128), beta=1.0))


def slow() -> bytes:
    """Return a model of three hundred million multiply-adds."""
    draft = Draft((1, 96, 96, 16))
    return draft.file(draft.conv(draft.input, 16, (12, 12), density=1))


def exported(file: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "fedprune.cli", "export", str(file), "--to", "microcontroller"]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_model_that_ends_the_interpreter_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "theirs.tflite").write_bytes(equal_values())
    ended = exported(tmp_path / "theirs.tflite")
    assert ended.returncode == 2
    assert ended.stderr.strip().endswith("theirs.tflite: TensorFlow Lite Micro ended with SIGABRT on this model")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.tflite"]


def test_the_next_model_runs_after_one_that_ended_the_runtime() -> None:
    zeros = np.zeros((1, 4, 1, 1), np.float32)
    for run in (partial(litert.run, reference=True), tflm.run):
        with pytest.raises(RuntimeError, match="ended with SIGABRT on this model"):
            run(equal_values(), zeros)
        assert run(equal_values(4), zeros) is not None


def test_a_softmax_over_many_classes_is_measured_on_values_that_differ() -> None:
    draft = Draft((1, 1, 1, 512), grid=(0.2, 11))
    assert tflm.arena_bytes(draft.file(draft.unary("SOFTMAX", draft.input, (1 / 256, -128), beta=1.0))) > 1000


def test_a_model_without_end_is_stopped() -> None:
    model = np.frombuffer(slow(), np.uint8)
    with pytest.raises(RuntimeError, match=r"TensorFlow Lite Micro took more than 0\.05 s on this model"):
        apart.call("tflm_arena", {"model": model, "input": np.zeros((1, 96, 96, 16), np.int8)}, limit_s=0.05)


def test_what_the_runtime_refuses_is_told_with_its_reason() -> None:
    draft = Draft((1, 4, 4, 2))
    last = draft.unary("LOGISTIC", draft.input)  # of a scale that is not 1/256
    with pytest.raises(RuntimeError, match="LOGISTIC") as caught:
        tflm.arena_bytes(draft.file(last))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("then", ["time.sleep(600)", "litert.run(model, np.zeros((500, 16, 96, 96), np.float32))"])
def test_the_runtimes_process_ends_with_the_one_that_was_killed(then: str, tmp_path: Path) -> None:
    (tmp_path / "slow.tflite").write_bytes(slow())
    code = (
        "import sys, time; from fedprune.export import litert; import numpy as np\n"
        "model = open(sys.argv[1], 'rb').read()\n"
        f"litert.run(model, np.zeros((1, 16, 96, 96), np.float32)); print('ready', flush=True); {then}"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "slow.tflite")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        children = psutil.Process(parent.pid).children()
        before = children[0].cpu_times().user
        while "litert" in then and children[0].cpu_times().user < before + 0.3:
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
    assert len(children) == 1
    assert not psutil.wait_procs(children, timeout=30)[1]


def test_giant_shapes_are_refused_before_anything_holds_them() -> None:
    for shape in ((1, 32767, 32767, 1), (1, 1, 32767, 513)):
        draft = Draft(shape)
        with pytest.raises(ModelError, match=r"has a tensor of \d+ bytes; at most 16777216 will do"):
            foreign.files(draft.file(draft.unary("RELU", draft.input)), "giant")
    draft = Draft((1, 4))
    draft.add("RELU", (draft.input,), draft.activation((1, 2**30)))
    with pytest.raises(ModelError, match="the model has 1073741824 outputs; at most 32767 will do"):
        foreign.files(draft.file(1), "giant")
    draft = Draft((1, 200, 200, 64))
    last = draft.conv(draft.input, 64, (13, 13))
    with pytest.raises(ModelError, match="operator 0, CONV_2D, brings the multiply-adds to"):
        foreign.files(draft.file(last), "giant")
    draft = Draft((1, 1, 1, 1))
    last = draft.input
    for _ in range(1001):
        last = draft.unary("RELU", last)
    with pytest.raises(ModelError, match="the model has 1001 operators; at most 1000 will do"):
        foreign.files(draft.file(last), "long")


def test_weights_that_take_too_many_segments_are_not_cut_for_ever() -> None:
    assert encode(np.ones((1, 300_000), np.int8), DENSE).segments == MOST_SEGMENTS + 1


def test_many_operators_do_not_unpack_the_same_bytes_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedprune.export.tflm.unpack._MOST_BYTES", 1 << 18)
    draft = Draft((1, 1, 1, 4))
    weight = draft.constant(np.zeros((32, 32, 4, 4)), np.int8, scales=np.ones(1, np.float32))
    encoded, ancillary = packed(draft.tensors[weight])
    inputs = draft.constant(encoded, np.uint8), draft.constant(ancillary, np.uint8)
    for _ in range(20):
        draft.tensors.append(replace(draft.tensors[weight], data=None))
        draft.operators.append(FileOperator(32, 1, inputs, len(draft.tensors) - 1, None, 0, DECODE))
    tensors = [each if at != weight else draft.tensors[draft.input] for at, each in enumerate(draft.tensors)]
    file = File(tensors, draft.operators, (draft.input,), (len(tensors) - 1,))
    with pytest.raises(ModelError, match="unpack 278528 bytes; at most 262144 will do"):
        unpacked(read(pack(file)))


def test_an_input_that_is_left_out_is_no_weight() -> None:
    draft = Draft((1, 2, 2, 3))
    last = draft.unary("RELU", draft.input)
    draft.levels((1, 1, 1, 1), 1)
    draft.constant(np.ones((1, 1, 1, 1)), np.int8)
    file = File(draft.tensors, draft.operators, (draft.input,), (last,))
    assert weight_of(file, replace(draft.operators[0], inputs=(draft.input, -1))) is None


def mean_over(axis: int) -> Callable[[Draft], int]:
    def make(draft: Draft) -> int:
        return draft.add("MEAN", (draft.input, draft.constant([1, axis])), draft.activation((1, 1, 1, 6)), 2)

    return make


def joined_along(axis: int) -> Callable[[Draft], int]:
    return lambda draft: draft.add(
        "CONCATENATION", (0, 0), draft.activation((1, 4, 5, 12), draft.grid(0)), 2, axis=axis
    )


def padded_by(sides: list[list[int]]) -> Callable[[Draft], int]:
    def make(draft: Draft) -> int:
        return draft.add("PAD", (0, draft.constant(sides)), draft.activation((1, 6, 5, 6), draft.grid(0)))

    return make


def cut_at(stop: list[int]) -> Callable[[Draft], int]:
    def make(draft: Draft) -> int:
        draft.slice(draft.input, (0, 0, 0, 0), (1, 2, 5, 6), (1, 1, 1, 1))
        at = draft.operators[-1].inputs[2]
        draft.tensors[at] = replace(draft.tensors[at], data=np.array(stop, np.int32))
        return draft.operators[-1].output

    return make


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("MEAN, names axis 6 of a tensor of 4 axes", mean_over(6)),
        ("MEAN, names axis -5 of a tensor of 4 axes", mean_over(-5)),
        ("CONCATENATION, names axis 7 of a tensor of 4 axes", joined_along(7)),
        ("PAD, crops, or leaves its output", padded_by([[0, 0], [1, 2], [0, 0], [0, 0]])),
        (r"STRIDED_SLICE, makes shapes .* of outputs of", cut_at([1, 4, 5, 6])),
    ],
)
def test_numbers_that_do_not_fit_their_tensors_are_refused(line: str, wrong: Callable[[Draft], int]) -> None:
    draft = Draft((1, 4, 5, 6))
    with pytest.raises(ModelError, match=line):
        foreign.files(draft.file(wrong(draft)), "wrong")


@pytest.mark.parametrize("shape", [(1, 10), (10,), (1, 32, 3)])
def test_both_headers_say_the_same_of_an_input_of_any_axes(shape: tuple[int, ...]) -> None:
    draft = Draft(shape)
    files = foreign.files(draft.file(draft.unary("RELU", draft.input, draft.grid(draft.input))), "small")
    for macro in ("MODEL_INPUT_BYTES", "MODEL_INPUT_HEIGHT", "MODEL_INPUT_WIDTH", "MODEL_INPUT_CHANNELS"):
        found = {re.search(rf"{macro} (\d+)", files[name].decode())[1] for name in ("model.h", "model_data.h")}  # type: ignore[index]
        assert len(found) == 1, macro


def token_file() -> bytes:
    """Return a model of 7 tokens out of 30."""
    draft = Draft((1, 7))
    rows = draft.tokens(7, 30, 12)
    return draft.file(draft.linear(draft.reshape(rows, (1, 84)), 9))


def test_somebody_elses_model_of_tokens_is_written_and_given_tokens(tmp_path: Path) -> None:
    pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")
    model = token_file()
    files = foreign.files(model, "words")
    for macro in ("MODEL_INPUT_TOKENS 7", "MODEL_INPUT_VOCABULARY 30", "MODEL_INPUT_BYTES 28"):
        assert all(f"#define {macro}\n" in files[name].decode() for name in ("model.h", "model_data.h")), macro
    assert "| Input numbers | tokens, 0 to 29 |" in files["model_card.md"].decode()
    port = inspect(model).inputs[0]
    assert (port.shape, port.grid, port.vocabulary) == ((1, 7), None, 30)
    given = np.concatenate([litert.noise(port, seed) for seed in range(40)])
    assert (given.dtype, given.min(), given.max()) == (np.int32, 0, 29)
    foreign.write(model, tmp_path, "words")
    wanted, whose = benching.expected(model, given)
    assert whose == "TensorFlow Lite Micro"
    if not boards.missing("host"):
        np.testing.assert_array_equal(boards.run(tmp_path, "host", given).outputs, wanted)
        with pytest.raises(ValueError, match=r"inputs of int8 \(1, 28\): .*model\.h takes int32 \(n, 7\)"):
            boards.run(tmp_path, "host", np.zeros((1, 28), np.int8))
    assert np.isfinite(benching.on_host([model], runs=1)[0].output).all()


def test_the_smallest_table_says_which_tokens_there_are() -> None:
    draft = Draft((1, 4))
    draft.tokens(4, 20, 6)
    axis = draft.constant([1])
    draft.tensors.append(draft.tensors[draft.input])
    back = draft.add("REVERSE_V2", (draft.input, axis), len(draft.tensors) - 1)
    table = draft.constant(np.ones((11, 6)), np.int8, scales=np.ones(1, np.float32))
    last = draft.add("GATHER", (table, back), draft.activation((1, 4, 6)), axis=0)
    assert litert.ports(read(draft.file(last))).input.vocabulary == 11
    draft = Draft((1, 4))
    assert litert.ports(read(draft.file(draft.unary("RELU", draft.input)))).input.vocabulary == 0


def test_a_sparse_tensor_of_no_values_is_refused() -> None:
    axes = [schema.DimensionMetadataT(denseSize=size) for size in (1, 3, 3)]
    starts, columns = (schema.Int32VectorT(values=values) for values in ([0] * 10, []))
    kind = schema.SparseIndexVector.Int32Vector
    last = schema.DimensionMetadataT(
        format=1, arraySegmentsType=kind, arraySegments=starts, arrayIndicesType=kind, arrayIndices=columns
    )
    sparsity = schema.SparsityParametersT(traversalOrder=[0, 1, 2, 3], dimMetadata=[*axes, last])
    content = changed(on_tensor(0, sparsity=sparsity))
    with pytest.raises(ModelError, match="tensor 0 'in' is stored sparse, and none of its values are there"):
        foreign.files(content, "sparse")


@cache
def nets() -> list[bytes]:
    return [*(chain(seed, 3, 4) for seed in range(8)), float_ends(), byte_ends(), two_ends()]


@settings(max_examples=80, deadline=None)
@given(which=st.integers(0, 10), seed=st.integers(0, 2**32))
def test_damage_is_one_line_or_all_files(which: int, seed: int) -> None:
    content, chance = bytearray(nets()[which]), random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        if chance.random() < 0.5:
            place = 4 * chance.randrange(len(content) // 4)
            content[place : place + 4] = struct.pack("<I", chance.choice((0, 1, 2, 255, 2**31 - 1, 2**32 - 1)))
        else:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    said, files = "", {}
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        try:
            inspect(bytes(content))
            files = foreign.files(bytes(content), "damaged")
        except (ModelError, RuntimeError) as error:
            said = str(error)
    assert bool(said) != (len(files) == 7)
    assert "\n" not in said
    assert len(said) < 600


def test_a_file_with_an_operator_that_tensorflow_lite_micro_lacks_becomes_c_alone(tmp_path: Path) -> None:
    draft = Draft((1, 1, 1, 8))
    file = draft.file(draft.unary("GELU", draft.conv(draft.input, 16, (1, 1), density=0.1), (0.02, -100)))
    (tmp_path / "theirs.tflite").write_bytes(file)
    ended = exported(tmp_path / "theirs.tflite")
    assert ended.returncode == 0, ended.stderr
    assert "TensorFlow Lite Micro lacks an operator of this model: no C array for it" in " ".join(ended.stdout.split())
    folder = tmp_path / "theirs_microcontroller"
    assert {"model.c", "model.h", "model.tflite", "Makefile"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("model_data*"))
    assert {operator_name(each) for each in read((folder / "model.tflite").read_bytes()).operators} == {
        "CONV_2D",
        "GELU",
    }


def test_the_page_goes_on_with_a_text(tmp_path: Path) -> None:
    """What step 9 shows, around a model of tokens: each time what comes after the last place, by the highest score."""
    if boards.missing("host"):
        pytest.skip("a compiler is not installed")
    draft = Draft((1, 7))
    last = draft.conv(draft.reshape(draft.tokens(7, 9, 12), (1, 1, 7, 12)), 9)
    model = draft.file(draft.reshape(last, (1, 7, 9)))
    foreign.write(model, tmp_path, "words")
    readme = (Path(__file__).parents[2] / "clients" / "microcontroller" / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("## 9.")[2].partition("```c\n")[2].partition("```")[0]
    turns = 'for (int i = 0; i < 20; i++) { int token = next_token(); printf("%d %s\\n", token, labels[token]); }'
    (tmp_path / "main.c").write_text(
        f'#include <stdio.h>\n#include "model.h"\n{shown}\nint main(void) {{ text[6] = 5; {turns} return 0; }}\n'
    )
    command = [compiler(), *CHECKS, "main.c", "model.c", "-o", "text"]
    subprocess.run(command, cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "text"], check=True, capture_output=True, text=True).stdout
    text, wanted = [0, 0, 0, 0, 0, 0, 5], list[str]()
    for _ in range(20):
        scores = benching.expected(model, np.array([text], np.int32))[0]
        assert scores is not None
        token = int(scores.reshape(7, 9)[-1].argmax())
        text = [*text[1:], token]
        wanted.append(f"{token} {token}")
    assert said.splitlines() == wanted
