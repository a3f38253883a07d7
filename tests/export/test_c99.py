"""Exported C on this machine, under every warning and check: its outputs are TensorFlow Lite Micro's, bit for bit."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from c99_files import Draft, joined
from c99_memory import cut
from c99_nets import chain
from c99_runs import WARNINGS, agree, agree_in_streams, each_in_turn, inputs, tflm, written
from export_nets import NETS, alive, patterns
from torch import nn

from fedprune.export import c99, litert
from fedprune.export.c99.lowering import lower
from fedprune.graph import inference, trace

pytest.importorskip("tflite_micro", reason="TensorFlow Lite Micro's interpreter has wheels for x86-64 Linux only")

# those of the first forty whose outputs follow their inputs closely
LIVELY = (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 15, 16, 21, 24, 28, 32, 33, 35, 36, 37, 38)


@pytest.mark.parametrize("kind", NETS)
def test_nets_of_the_writer(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    samples = patterns(kind.shape, 16)  # type: ignore[attr-defined]
    graph = inference(trace(alive(kind(), samples, 0.4), samples[:1]))
    model = litert.write_int8(graph, litert.calibrate(graph, samples))
    for optimise in (c99.smallest, c99.fastest):
        agree(model, tmp_path, optimise)


@pytest.mark.parametrize("seed", LIVELY)
def test_random_nets(seed: int, tmp_path: Path) -> None:
    model = chain(seed)
    if seed % 2:
        agree_in_streams(model, tmp_path, cut(lower(model), seed))
    else:
        agree(model, tmp_path, (c99.smallest, c99.fastest)[seed // 2 % 2])


def test_a_block_with_a_shortcut_in_one_stream(tmp_path: Path) -> None:
    draft = Draft((1, 15, 8, 3))
    source = draft.conv(draft.input, 8)
    branch = draft.conv(draft.conv(source, 8, (3, 3), (2, 2), clip=1), 6)
    last = draft.pool(draft.both("ADD", branch, draft.conv(source, 6, (1, 1), (2, 2))), "MAX_POOL_2D", (3, 3), (1, 1))
    for ends in ([5], [0, 4, 5], [0, 5], [4, 5]):
        agree_in_streams(draft.file(last), tmp_path, ends)


@pytest.mark.parametrize("depthwise", [False, True])
def test_windows(depthwise: bool, tmp_path: Path) -> None:
    draft = Draft((1, 7, 11, 6), seed=5)
    grid = (0.04, -11)
    windows = [
        # filters, kernel, stride, dilation, same, groups
        (1, (3, 3), (1, 1), (1, 1), True, 1),
        (7, (1, 1), (2, 3), (1, 1), False, 1),
        (19, (9, 13), (1, 1), (1, 1), True, 2),  # larger than the map
        (5, (1, 5), (1, 2), (1, 1), False, 1),
        (3, (7, 1), (3, 1), (1, 1), True, 3),
        (4, (2, 2), (2, 2), (1, 1), False, 2),
        (6, (3, 3), (1, 1), (2, 3), True, 6),
        (9, (2, 3), (1, 1), (3, 2), False, 3),
        (2, (7, 11), (1, 1), (1, 1), False, 1),  # the whole map
        (13, (4, 3), (5, 4), (1, 1), True, 1),
        (6, (1, 1), (1, 1), (1, 1), True, 6),
        (8, (6, 2), (1, 1), (1, 5), True, 2),
    ]
    results = []
    for at, (filters, kernel, stride, dilation, same, groups) in enumerate(windows):
        kind = {"depthwise": True} if depthwise else {"groups": groups}
        count = (1, 1, 2, 1, 3)[at % 5] if depthwise else -(-filters // groups) * groups
        values = {"density": (1, 0.5, 0.1)[at % 3], "clip": (0, 1, 3, 2)[at % 4], "grid": grid, "same": same}
        results.append(draft.conv(draft.input, count, kernel, stride, dilation, **kind, **values))
    agree(draft.file(joined(draft, results)), tmp_path, each_in_turn)


def test_pools_pads_and_slices(tmp_path: Path) -> None:
    draft = Draft((1, 7, 11, 3))
    source, whole = draft.input, draft.shape(draft.input)
    results = [
        draft.pool(source, kind, kernel, stride, same=same, clip=clip)
        for kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D")
        for kernel, stride, same, clip in (
            ((2, 2), (2, 2), False, 0), ((3, 3), (2, 2), True, 0), ((9, 12), (1, 1), True, 1),
            ((7, 11), (1, 1), False, 0), ((1, 3), (1, 3), True, 3), ((2, 1), (3, 2), False, 2),
        )
    ]  # fmt: skip
    results += [
        draft.pad(source, ((0, 0), (1, 0), (0, 3), (2, 1))),
        draft.pad(source, ((0, 0), (0, 2), (1, 1), (0, 0)), -77),
        draft.slice(source, (0, 1, 2, 0), whole, (1, 2, 3, 2)),
        draft.slice(source, (0, -3, -11, -1), (1, 7, 9, 3), (1, 1, 2, 1)),
        draft.concat([source, draft.pool(source, "MAX_POOL_2D", (1, 4), (1, 2))], 2),
        draft.concat([draft.slice(source, (0, 5, 0, 0), whole, (1, 1, 1, 1)), source], 1),
        draft.concat([source, draft.unary("QUANTIZE", source, draft.grid(source)), source], 3),
    ]
    agree(draft.file(joined(draft, results)), tmp_path)


def test_shapes_of_other_writers(tmp_path: Path) -> None:
    draft = Draft((1, 20, 4))
    line = draft.conv(draft.reshape(draft.input, (1, 1, 20, 4), "EXPAND_DIMS"), 5, (1, 3))
    line = draft.reshape(draft.reshape(line, (1, 20, 5), "SQUEEZE"), (1, 1, 20, 5), "EXPAND_DIMS")
    line = draft.unary("TANH", draft.conv(line, 3, (1, 5)), (1 / 128, 0))
    square = draft.conv(draft.reshape(line, (1, 10, 2, 3)), 8)
    same = draft.conv(draft.reshape(draft.reshape(square, (1, 160)), (1, 10, 2, 8)), 4)  # there and back
    ends = draft.reshape(draft.mean(same), (1, 4))
    agree(draft.file(draft.linear(draft.unary("RELU", ends), 6)), tmp_path)


def test_one_row_is_not_overtaken(tmp_path: Path) -> None:
    agree(chain(23), tmp_path)  # a table is applied in place, where another map holds the row's first bytes


def test_a_map_that_is_read_in_two_shapes(tmp_path: Path) -> None:
    draft = Draft((1, 8, 16, 4))
    high = draft.pool(draft.reshape(draft.input, (1, 16, 8, 4)), "MAX_POOL_2D", (9, 1), (2, 1), same=True)
    agree(draft.file(draft.concat([draft.unary("RELU", draft.input, draft.grid(high)), high], 2)), tmp_path)


def test_more_steps_than_a_byte_counts(tmp_path: Path) -> None:
    draft = Draft((1, 12, 8, 4))
    last = draft.input
    for _ in range(260):
        last = draft.pool(last, "MAX_POOL_2D", (1, 1), (1, 1))
    last = draft.pool(draft.conv(draft.conv(last, 12), 12), "MAX_POOL_2D", (2, 2), (2, 2))
    agree_in_streams(draft.file(last), tmp_path, [*range(260), 262])


PROGRAM = """
#include <cstdio>
#include "model.h"
#include "model.h"
int main() {
  while (std::fread(model_input(), 1, MODEL_INPUT_BYTES, stdin) == MODEL_INPUT_BYTES)
    std::fwrite(model_run(), 1, MODEL_OUTPUT_BYTES, stdout);
}
"""


@pytest.mark.parametrize(
    ("c", "cpp", "level"), [("gcc", "g++", "-Os"), ("gcc", "g++", "-O3"), ("clang", "clang++", "-O2")]
)
def test_part_of_a_cpp_program(c: str, cpp: str, level: str, tmp_path: Path) -> None:
    lacking = [name for name in (c, cpp) if shutil.which(name) is None]
    if lacking:
        pytest.skip(f"{' and '.join(lacking)} are not installed")
    model = chain(4)
    given = inputs(model, 9)
    (written(c99.generate(model, each_in_turn), tmp_path) / "main.cc").write_text(PROGRAM)
    for command in (
        [c, *WARNINGS, level, "-ffreestanding", "-c", "model.c"],
        [cpp, *WARNINGS[1:], "-std=c++11", level, "main.cc", "model.o", "-o", "program"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    ran = subprocess.run([tmp_path / "program"], input=given.tobytes(), capture_output=True, check=True)
    found = np.frombuffer(ran.stdout, np.int8).reshape(len(given), -1)
    np.testing.assert_array_equal(found, tflm(model, given))
