"""What moves values in exported C, and what sums and resizes them: bit for bit TensorFlow Lite Micro's outputs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from c99_files import Draft
from c99_memory import Memory, together
from c99_nets import MOVERS, chain
from c99_runs import computed, inputs, tflm
from hypothesis import given
from hypothesis import strategies as st
from test_c99 import agree, each_in_turn, joined

from fedprune.export import c99
from fedprune.export.c99.plan import plan
from fedprune.export.c99.rules import lower
from fedprune.export.litert.runtime import interpreter

SHAPE = (1, 6, 4, 8)
Make = Callable[[Draft], list[int]]


def moved(code: str, shape: tuple[int, ...], *constants: object, **values: object) -> Make:
    return lambda draft: [draft.moved(code, draft.input, shape, *constants, **values)]  # type: ignore[arg-type]


def split(code: str, shapes: list[tuple[int, ...]], *constants: object, **values: object) -> Make:
    return lambda draft: draft.parts(code, draft.input, shapes, *constants, **values)  # type: ignore[arg-type]


def stacked(axis: int, shape: tuple[int, ...]) -> Make:
    def make(draft: Draft) -> list[int]:
        first = draft.reshape(draft.input, shape)
        second = draft.moved("REVERSE_V2", first, shape, [0])
        whole = draft.activation((*shape[:axis], 3, *shape[axis:]), draft.grid(first))
        return [draft.add("PACK", (first, second, first), whole, 1, axis=axis, valuesCount=3)]

    return make


def turned(shape: tuple[int, ...], order: tuple[int, ...]) -> Make:
    whole = tuple(shape[axis] for axis in order)
    return lambda draft: [draft.moved("TRANSPOSE", draft.reshape(draft.input, shape), whole, order)]


MOVES: dict[str, Make] = {
    "columns first": turned(SHAPE, (0, 2, 1, 3)),
    "channels first": turned(SHAPE, (0, 3, 1, 2)),
    "all turned": turned(SHAPE, (0, 3, 2, 1)),
    "within rows": turned(SHAPE, (0, 1, 3, 2)),
    "three axes": turned((12, 2, 8), (1, 2, 0)),
    "four axes without a batch": turned((2, 3, 4, 8), (3, 1, 0, 2)),
    "heads": turned((1, 12, 4, 4), (0, 2, 1, 3)),
    "shuffle": turned((1, 6, 4, 2, 4), (0, 1, 2, 4, 3)),
    "five axes": turned((2, 3, 2, 4, 4), (4, 2, 0, 3, 1)),
    "ones": turned((1, 1, 192), (2, 1, 0)),
    "slice": moved("SLICE", (1, 3, 2, 8), (0, 1, 2, 0), (1, 3, -1, 8)),
    "steps": moved("STRIDED_SLICE", (1, 2, 4, 3), (0, 1, 0, 1), (1, 6, 4, 8), (1, 3, 1, 3), version=2),
    "masks": moved("STRIDED_SLICE", (1, 4, 2, 8), (3, 2, 2, 3), (0, 0, 0, 0), (1, 1, 1, 1), beginMask=9, endMask=15),
    "backwards": moved("STRIDED_SLICE", (1, 3, 4, 8), (0, 5, 3, 7), (1, -9, -9, -9), (1, -2, -1, -1)),
    "one row": moved("STRIDED_SLICE", (1, 4, 8), (0, -1, 0, 0), (1, 9, 4, 8), (1, 1, 1, 1), shrinkAxisMask=2),
    "one channel": moved("STRIDED_SLICE", (1, 6, 4), (0, 0, 0, 5), (1, 6, 4, 6), (1, 1, 1, 1), shrinkAxisMask=8),
    "thirds": split("SPLIT", [(1, 2, 4, 8)] * 3, 1, numSplits=3),
    "channels apart": split("SPLIT", [(1, 6, 4, 2)] * 4, -1, numSplits=4),
    "unlike parts": split("SPLIT_V", [(1, 6, 1, 8), (1, 6, 3, 8)], (1, -1), 2, numSplits=2),
    "unpacked rows": split("UNPACK", [(1, 4, 8)] * 6, axis=1, num=6),
    "unpacked channels": split("UNPACK", [(1, 6, 4)] * 8, axis=-1, num=8),
    **{f"stacked {axis}": stacked(axis, (6, 4, 8)) for axis in range(4)},
    "stacked batch": stacked(1, (1, 24, 8)),
    "picked rows": moved("GATHER", (1, 4, 4, 8), (5, 0, 0, 3), axis=1),
    "picked channels": moved("GATHER", (1, 6, 4, 3), (7, 2, 4), axis=3),
    "picked once": moved("GATHER", (1, 6, 8), np.int32(2), axis=2),
    "blocks to space": moved("DEPTH_TO_SPACE", (1, 12, 8, 2), blockSize=2),
    "space to blocks": moved("SPACE_TO_DEPTH", (1, 3, 2, 32), blockSize=2),
    "rows reversed": moved("REVERSE_V2", SHAPE, [1]),
    "all reversed": moved("REVERSE_V2", SHAPE, (1, 2, 3)),
    "reflected": moved("MIRROR_PAD", (1, 9, 10, 8), ((0, 0), (2, 1), (3, 3), (0, 0)), mode=0),
    "mirrored": moved("MIRROR_PAD", (1, 12, 5, 12), ((0, 0), (6, 0), (0, 1), (1, 3)), mode=1),
    "doubled": moved("RESIZE_NEAREST_NEIGHBOR", (1, 12, 8, 8), (12, 8), version=3),
    "one row spread": lambda draft: [
        draft.moved("BROADCAST_TO", draft.reduced("MEAN", draft.input, (1,)), SHAPE, SHAPE),
        draft.moved("BROADCAST_TO", draft.reduced("MEAN", draft.input, (2, 3)), SHAPE, SHAPE),
    ],
}


@pytest.mark.parametrize("which", range(4))
def test_moves(which: int, tmp_path: Path) -> None:
    draft = Draft(SHAPE, seed=which)
    results = [result for make in [*MOVES.values()][which::4] for result in make(draft)]
    fit = [draft.unary("QUANTIZE", each, (0.05, -3)) for each in results]
    agree(draft.file(joined(draft, fit)), tmp_path, count=4)


@pytest.mark.parametrize("name", MOVES)
def test_each_move_by_itself(name: str) -> None:
    draft = Draft(SHAPE)
    results = [draft.unary("TANH", each, (1 / 128, 0)) for each in MOVES[name](draft)]
    program = lower(draft.file(joined(draft, results)))
    found = plan(program)
    Memory(program, found).run()
    assert found.arena_bytes <= together(program)


def test_a_move_that_moves_nothing_is_no_layer() -> None:
    draft = Draft((1, 5, 1, 4))
    turned_ = draft.moved("TRANSPOSE", draft.input, (1, 1, 5, 4), (0, 2, 1, 3))
    whole = draft.moved("SLICE", turned_, (1, 1, 5, 4), (0, 0, 0, 0), (1, -1, 5, 4))
    assert [layer.kernel for layer in lower(draft.file(draft.unary("RELU", whole))).layers] == ["lookup"]


def test_outputs_that_nobody_reads_are_not_computed() -> None:
    draft = Draft((1, 5, 3, 4))
    parts = draft.parts("SPLIT", draft.input, [(1, 5, 3, 1)] * 4, 3, numSplits=4)
    assert [layer.kernel for layer in lower(draft.file(draft.unary("RELU", parts[2]))).layers] == ["place", "lookup"]


def test_moves_within_rows_keep_few_rows() -> None:
    draft = Draft((1, 32, 16, 8))
    last = draft.conv(draft.input, 32, (3, 3))
    last = draft.moved("DEPTH_TO_SPACE", last, (1, 64, 32, 8), blockSize=2)
    last = draft.pool(draft.conv(last, 4, (3, 3)), "MAX_POOL_2D", (4, 4), (4, 4))
    found = plan(lower(draft.file(last)))
    assert len(found.streams) == 1
    assert found.arena_bytes < 32 * 16 * 8 + 9_000  # the input and rows; a whole map of them takes 16,384
    draft = Draft((1, 16, 16, 8))
    last = draft.moved("RESIZE_BILINEAR", draft.conv(draft.input, 8), (1, 64, 64, 8), (64, 64), version=3)
    last = draft.pool(draft.conv(last, 4, (3, 3)), "MAX_POOL_2D", (4, 4), (4, 4))
    assert plan(lower(draft.file(last))).arena_bytes < 12_000


# those of the first sixty whose outputs follow their inputs closely
@pytest.mark.parametrize("seed", range(12))
def test_random_nets(seed: int, tmp_path: Path) -> None:
    model = chain(seed, 8, kinds=MOVERS)
    given_ = inputs(model, 5)
    np.testing.assert_array_equal(computed(c99.generate(model, each_in_turn), given_, tmp_path), tflm(model, given_))


@given(st.integers(0, 2**32), st.integers(1, 9))
def test_no_byte_is_lost(seed: int, layers: int) -> None:
    try:
        program = lower(chain(seed, layers, kinds=MOVERS))
    except c99.ModelError:  # a chain whose moves undo each other computes nothing, and is refused
        return
    found = plan(program)
    Memory(program, found).run()
    assert found.arena_bytes <= together(program)


@pytest.mark.parametrize("code", ["RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"])
def test_resizes(code: str, tmp_path: Path) -> None:
    draft = Draft((1, 5, 7, 3))
    results = [
        draft.moved(code, draft.input, (1, *size, 3), size, version=3, alignCorners=corners, halfPixelCenters=half)
        for size in ((10, 14), (7, 9), (3, 2), (1, 1), (23, 4), (5, 7))
        for corners, half in ((False, False), (True, False), (False, True))
    ]
    agree(draft.file(joined(draft, results)), tmp_path)


def test_sums_means_and_extremes_over_any_axes(tmp_path: Path) -> None:
    draft = Draft((1, 6, 5, 4))
    target = (0.05, 7)
    shapes = [(1, 6, 5, 4), (6, 5, 4), (1, 30, 4), (8, 15), (3, 2, 5, 4), (120,), (1, 3, 2, 5, 4)]
    axes = [(1,), (2,), (3,), (1, 2), (2, 3), (1, 3), (1, 2, 3), (-1,), (0,), (0, 1), (0, 2), (0, 3), (4,)]
    results = []
    for shape in shapes:
        source = draft.reshape(draft.input, shape)
        for at, over in enumerate(axes):
            if all(-len(shape) <= axis < len(shape) for axis in over) and (len(shape) < 5 or over in ((3,), (4,))):
                code, keep = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")[at % 4], at % 3 > 0
                grid = draft.grid(source) if "REDUCE" in code else (0.3, 9) if code == "SUM" else target
                if len(shape) == 4 and shape[0] > 1 and over in ((1, 3), (0, 2)):
                    continue  # of more than three runs of neighbours
                made = draft.reduced(code, source, over, keep, grid)
                results.append(draft.unary("QUANTIZE", made, target))
    agree(draft.file(joined(draft, results)), tmp_path)


def test_transposed_convolutions(tmp_path: Path) -> None:
    draft = Draft((1, 5, 4, 6), seed=2)
    grid = (0.05, -9)
    windows = [
        # filters, kernel, stride, same, size
        (7, (2, 2), (2, 2), True, None),
        (3, (3, 3), (2, 2), True, None),
        (3, (3, 3), (2, 2), False, None),
        (4, (4, 4), (2, 2), True, None),
        (5, (1, 1), (2, 3), True, None),  # cells without weights
        (2, (5, 2), (3, 1), True, None),
        (9, (2, 5), (1, 4), False, None),
        (1, (3, 3), (1, 1), True, None),
        (3, (3, 3), (2, 2), True, (9, 7)),
        (3, (4, 3), (3, 2), True, (13, 8)),
        (2, (3, 3), (2, 2), False, (12, 10)),
        (2, (7, 9), (2, 2), False, None),
    ]
    results = [
        draft.transposed(
            draft.input, filters, kernel, stride, same=same, size=size, density=(1, 0.5, 0.2)[at % 3], grid=grid,
            single=at % 5 == 1, bias=at % 4 != 3, fusedActivationFunction=(0, 1, 3)[at % 3],
        )
        for at, (filters, kernel, stride, same, size) in enumerate(windows)
    ]  # fmt: skip
    agree(draft.file(joined(draft, results)), tmp_path, each_in_turn)


def test_constants_that_follow_from_shapes_are_no_layers(tmp_path: Path) -> None:
    # what exporters write for x.reshape(len(x), -1): SHAPE, STRIDED_SLICE, PACK, RESHAPE
    draft = Draft((1, 6, 4, 8))
    shape = draft.add("SHAPE", (draft.input,), whole(draft, (4,)), outType=2)
    numbers = [draft.constant(each) for each in ([0], [1], [1])]
    first = draft.add("STRIDED_SLICE", (shape, *numbers), whole(draft, ()), 2, shrinkAxisMask=1)
    wanted = draft.add("PACK", (first, draft.constant(-1)), whole(draft, (2,)), 1, axis=0, valuesCount=2)
    flat = draft.add("RESHAPE", (draft.input, wanted), draft.activation((1, 192), draft.grid(draft.input)))
    agree(draft.file(draft.linear(flat, 9)), tmp_path)


def whole(draft: Draft, shape: tuple[int, ...]) -> int:
    from fedprune.export.litert.flatbuffer import FileTensor

    draft.tensors.append(FileTensor(shape, np.dtype(np.int32)))
    return len(draft.tensors) - 1


def test_tokens(tmp_path: Path) -> None:
    draft = Draft((1, 7))
    rows = draft.tokens(7, 300, 12)
    last = draft.linear(draft.reshape(rows, (1, 84)), 9, density=0.3)
    model = draft.file(last)
    made = c99.generate(model)
    assert "int32_t *model_input(void);" in made.header
    assert "#define MODEL_INPUT_BYTES 28\n" in made.header
    assert "#define MODEL_INPUT_TOKENS 7\n#define MODEL_INPUT_VOCABULARY 300\n" in made.header
    assert "MODEL_INPUT_SCALE" not in made.header
    tokens = np.random.default_rng(0).integers(0, 300, (40, 7)).astype(np.int32)
    found = computed(made, tokens, tmp_path)
    np.testing.assert_array_equal(found, tflm(model, tokens))
    # what is no token of the table is one at its end, whatever lies in memory around it
    outside = np.array([[-1, 300, 5, 2**31 - 1, -(2**31), 1, 0]], np.int32)
    np.testing.assert_array_equal(computed(made, outside, tmp_path), computed(made, np.clip(outside, 0, 299), tmp_path))


def test_tokens_that_are_moved(tmp_path: Path) -> None:
    draft = Draft((1, 8))
    draft.tokens(8, 20, 6)
    draft.operators.clear()
    turned_ = draft.add("REVERSE_V2", (draft.input, draft.constant([1])), whole(draft, (1, 8)))
    part = draft.add("SLICE", (turned_, *map(draft.constant, ((0, 2), (1, 4)))), whole(draft, (1, 4)))
    table = next(at for at, tensor in enumerate(draft.tensors) if tensor.shape == (20, 6))
    rows = draft.add("GATHER", (table, part), draft.activation((1, 4, 6), (0.05, -3)), axis=0)
    model = draft.file(draft.linear(draft.reshape(rows, (1, 24)), 5))
    tokens = np.random.default_rng(0).integers(0, 20, (20, 8)).astype(np.int32)
    np.testing.assert_array_equal(computed(c99.generate(model), tokens, tmp_path), tokens_by(model, tokens))


def tokens_by(model: bytes, tokens: np.ndarray) -> np.ndarray:
    """Return LiteRT's outputs: TensorFlow Lite Micro reverses bytes and floats, and slices int32 as it does bytes."""
    running = interpreter(model, reference=True)
    running.allocate_tensors()
    found = []
    for each in tokens:
        running.set_tensor(running.get_input_details()[0]["index"], each[None])
        running.invoke()
        found.append(running.get_tensor(running.get_output_details()[0]["index"]).reshape(-1))
    return np.stack(found)
