"""How each operator of a file becomes a layer: its integers as TensorFlow Lite Micro's reference kernels take them."""

from collections.abc import Mapping

import numpy as np

from fedprune.export.c99 import halves
from fedprune.export.c99.arithmetic import BINARY
from fedprune.export.c99.checks import check_covered, check_types
from fedprune.export.c99.folding import folds
from fedprune.export.c99.gathering import gather
from fedprune.export.c99.lowering import Lowering, Rule
from fedprune.export.c99.moves import MOVES
from fedprune.export.c99.parts import filled, put, taken
from fedprune.export.c99.placing import PLACES
from fedprune.export.c99.program import Loop, Program
from fedprune.export.c99.reductions import REDUCTIONS
from fedprune.export.c99.remembering import lstm, svdf
from fedprune.export.c99.resizing import RESIZES
from fedprune.export.c99.softmax import softmax, softmax16
from fedprune.export.c99.states import STATES
from fedprune.export.c99.transposed import transposed
from fedprune.export.c99.values import by_value, l2_norm, matmul, quantize, rsqrt
from fedprune.export.c99.wide import curve, leaky_relu, on_int16, relu, relu6, unknown
from fedprune.export.c99.windows import conv, depthwise, fully_connected, pool
from fedprune.export.litert.loops import Flat, flat
from fedprune.export.litert.reader import ModelError, operator_name, read
from fedprune.export.tflm.unpack import unpacked

# More than any microcontroller holds, or is planned for here in seconds.
_MOST_OPERATORS = 1_000
_MOST_ROWS = 2**17


_BY_VALUE = (
    "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "LOGISTIC", "TANH", "HARD_SWISH", "ABS", "SQRT",
    "EXP", "LOG", "ELU", "GELU",
)  # fmt: skip

RULES: dict[str, Rule] = {
    "CONV_2D": conv,
    "DEPTHWISE_CONV_2D": depthwise,
    "FULLY_CONNECTED": fully_connected,
    "MAX_POOL_2D": pool("max_pool"),
    "AVERAGE_POOL_2D": pool("avg_pool"),
    "SOFTMAX": softmax("softmax", (1 / 256, -128)),
    "LOG_SOFTMAX": softmax("log_softmax", (16 / 256, 127)),
    "GATHER": gather,
    **MOVES,
    **PLACES,
    **REDUCTIONS,
    **RESIZES,
    "TRANSPOSE_CONV": transposed,
    "QUANTIZE": quantize,
    "RSQRT": rsqrt,
    "L2_NORMALIZATION": l2_norm,
    "BATCH_MATMUL": matmul,
    **BINARY,
    **STATES,
    **dict.fromkeys(_BY_VALUE, by_value),
    "SLICE": taken(MOVES["SLICE"]),
    "DYNAMIC_UPDATE_SLICE": put,
    "FILL": filled,
    "SVDF": svdf,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": lstm,
}
_ON_INT16: dict[str, Rule] = {
    "CONV_2D": halves.conv,
    "DEPTHWISE_CONV_2D": halves.depthwise,
    "FULLY_CONNECTED": halves.fully_connected,
    "MAX_POOL_2D": halves.pool("max"),
    "AVERAGE_POOL_2D": halves.pool("average"),
    "SOFTMAX": softmax16,
    "LOGISTIC": curve,
    "TANH": curve,
    "RELU": relu,
    "RELU6": relu6,
    "LEAKY_RELU": leaky_relu,
    **dict.fromkeys(("HARD_SWISH", "ELU", "GELU", "RELU_N1_TO_1", "RELU_0_TO_1"), unknown),
}
RULES = RULES | {name: on_int16(RULES[name], rule) for name, rule in _ON_INT16.items()}


def lower(model: bytes) -> Program:
    """Return the layers of an int8 model, its weights still to be encoded.

    Raises ``ModelError`` for a file that is not sound, holds floats, or operators that are not covered: named.
    """
    return _lower(flat(unpacked(read(model))), RULES)


def _lower(whole: Flat, rules: Mapping[str, Rule]) -> Program:
    file = whole.file
    made = Lowering(file, whole.counters)
    if len(file.operators) > _MOST_OPERATORS:
        raise ModelError(f"the model has {len(file.operators)} operators; at most {_MOST_OPERATORS} will do")
    check_types(file)
    check_covered(file, rules)
    tokens = [made.tensor(index).dtype == np.int32 for index in file.inputs]
    sources = [made.map(index, wide=True) for index in file.inputs]
    turns = {at: each.turns for each in whole.repeats for at in range(each.first, each.last + 1)}
    starts = []  # the first layer of each operator
    for position, operator in enumerate(file.operators):
        starts.append(len(made.layers))
        made.turns = turns.get(position, 1)
        name = operator_name(operator)
        made.where = f"operator {position}, {name},"
        if not operator.inputs and name not in ("VAR_HANDLE", "CALL_ONCE"):
            raise made.wrong("has no input")
        if folds(made, operator):
            continue
        rules[name](made, operator)
    results = [made.map(index, wide=made.wide(index)) for index in file.outputs]
    if not made.layers:
        raise ModelError("the model computes nothing: its output is its input")
    if (rows := sum(made.maps[layer.output].height for layer in made.layers)) > _MOST_ROWS:
        raise ModelError(f"the model's maps have {rows} rows in all; at most {_MOST_ROWS} will do")
    taken = [None if counts else made.grid(index) for index, counts in zip(file.inputs, tokens, strict=True)]
    given = [made.grid(index) for index in file.outputs]
    starts.append(len(made.layers))
    loops = [Loop(starts[each.first], starts[each.last + 1] - 1, each.turns) for each in whole.repeats]
    loops = [each for each in loops if each.first <= each.last]
    ends = zip((*sources, *results), (*file.inputs, *file.outputs), strict=True)
    wide = frozenset(at for at, index in ends if made.tensor(index).dtype == np.int16)
    return Program(made.maps, made.layers, sources, results, taken, given, loops, [*made.states.values()], wide)
