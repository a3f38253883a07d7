"""Files that people bring, compared with the runtime: what is rounded, said and refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from brought_files import byte_ends
from brought_runs import facts, same
from c99_files import Draft
from export_files import changed
from typer.testing import CliRunner

from fedprune.cli.main import app
from fedprune.export.c99 import boards
from fedprune.export.chip import benching, foreign
from fedprune.export.litert.reader import read

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")


def test_a_layer_with_one_scale_is_rounded_as_the_runtime_does() -> None:
    """Sums that tell whether scales are multiplied in double precision: one filter a sum."""
    draft = Draft((1, 1, 1, 4), grid=(0.024790890514850616, 0))
    levels = np.random.default_rng(0).integers(-127, 128, (2006, 4)).astype(np.int8)
    last = draft.linear(draft.input, 2006, single=True, levels=levels, bias=np.arange(2006) * 977 - 980_000)
    same(draft.file(last))


def test_a_softmax_that_would_end_the_interpreter_is_compared_on_other_inputs() -> None:
    draft = Draft((1, 1, 1, 512), grid=(0.2, 11))
    same(draft.file(draft.unary("SOFTMAX", draft.input, (1 / 256, -128), beta=1.0)), 17)


def test_scales_of_a_bias_along_an_axis_that_it_lacks_are_read() -> None:
    draft = Draft((1, 6, 6, 2))
    model = draft.file(draft.conv(draft.input, 4, depthwise=True))
    bias = read(model).operators[0].inputs[2]

    def old(made: object) -> None:
        vars(made.subgraphs[0].tensors[bias].quantization).update(quantizedDimension=3)  # type: ignore[attr-defined]

    same(changed(old, read(model)))


def test_a_difference_is_an_error_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = byte_ends()
    facts(model)
    right = benching.expected
    others = lambda *given: (np.asarray(right(*given)[0]) ^ 1, "another runtime")  # noqa: E731
    monkeypatch.setattr("fedprune.export.chip.benching.expected", others)
    with pytest.raises(RuntimeError, match="the C differs from another runtime on 20 of 20 inputs: please report"):
        foreign.write(model, tmp_path / "out", "theirs")
    assert not (tmp_path / "out").exists()


def test_the_commands_say_what_was_changed_and_compared(tmp_path: Path) -> None:
    if boards.missing("host"):
        pytest.skip("a compiler is not installed")
    (tmp_path / "theirs.tflite").write_bytes(byte_ends())
    for command in (["inspect"], ["export", "--to", "microcontroller"], ["export", "--to", "litert"], ["bench"]):
        ran = CliRunner().invoke(app, [command[0], str(tmp_path / "theirs.tflite"), *command[1:]])
        assert ran.exit_code == 0, ran.output
        if command[-1] == "microcontroller":
            said = "the C was compared with TensorFlow Lite Micro on 20 random and extreme inputs, with the same bits"
            assert said in " ".join(ran.output.split())
            assert "model.h has functions from and to uint8" in " ".join(ran.output.split())


def test_joined_maps_of_different_scales_are_named_as_the_runtimes_limit() -> None:
    draft = Draft((1, 6, 6, 2))
    other = draft.conv(draft.input, 2, grid=(0.31, 4))
    with pytest.raises(ValueError, match="CONCATENATION, joins maps of different scales, which TensorFlow Lite Micro"):
        foreign.files(draft.file(draft.concat([draft.input, other])), "theirs")


def test_what_no_kernel_covers_is_named_at_once() -> None:
    draft = Draft((1, 6, 6, 2))
    last = draft.unary("SIN", draft.unary("COS", draft.unary("SIN", draft.input)))
    with pytest.raises(ValueError, match=r"no C kernel covers SIN \(operator 0, 2\), COS \(operator 1\)$"):
        foreign.files(draft.file(last), "theirs")
    draft = Draft((1, 6, 6, 2))
    last = draft.conv(draft.input, 3)
    for index in (draft.input, last):
        draft.tensors[index] = replace(draft.tensors[index], dtype=np.dtype(np.uint8), zero_point=128)
    with pytest.raises(ValueError, match="works on uint8, as converters wrote before int8"):
        foreign.files(draft.file(last), "theirs")
