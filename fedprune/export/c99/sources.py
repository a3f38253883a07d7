"""The text of model.c and model.h: kernels that a program needs, its constants, its arena and its steps."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedprune.export.c99.encoding import Code
from fedprune.export.c99.files import kernel
from fedprune.export.c99.flash import code_bytes_predicted, constant_bytes
from fedprune.export.c99.options import LARGE_BIASES, options
from fedprune.export.c99.plan import Plan
from fedprune.export.c99.program import Array, At, Fields, Fixed, Layer, Name, Program, Structs
from fedprune.export.c99.streams import band
from fedprune.export.litert import Affine

_PER_LINE = 24


class Sources(NamedTuple):
    """The text of both files, and what they take."""

    header: str
    source: str
    arena_bytes: int
    """Of working memory, static."""
    constants_bytes: int
    """Of flash for weights and tables, counted: it is so much on every processor of 32 bits."""
    code_bytes_predicted: int
    """Of flash for all else, with a startup, on a Cortex-M4 by GCC's -O2: about, for nothing is compiled here."""

    @property
    def flash_bytes_predicted(self) -> int:
        """All of it."""
        return self.constants_bytes + self.code_bytes_predicted


def sources(program: Program, plan: Plan, codes: Mapping[int, Code], extra: str = "") -> Sources:
    """Return the C99 text of a program whose layer ``n`` has its weights in ``codes[n]``; ``extra`` ends the header."""
    source, result = program.maps[program.input], program.maps[program.output]
    quantities = {"HEIGHT": source.height, "WIDTH": source.width, "CHANNELS": source.channels}
    tokens = {"TOKENS": source.size // _TOKEN_BYTES, "VOCABULARY": _vocabulary(program)}
    macros: dict[str, int | str] = {
        **{f"MODEL_INPUT_{name}": value for name, value in (quantities if program.input_grid else tokens).items()},
        "MODEL_INPUT_BYTES": source.size,
        **_grid("MODEL_INPUT", program.input_grid),
        "MODEL_OUTPUT_CHANNELS": result.channels,
        "MODEL_OUTPUT_BYTES": result.size,
        **_grid("MODEL_OUTPUT", program.output_grid),
        "MODEL_ARENA_BYTES": plan.arena_bytes + _PAST_END,
    }
    kind, where = ("int8_t", _QUANTITIES) if program.input_grid else ("int32_t", _TOKENS)
    defined = "\n".join(f"#define {name} {value}" for name, value in macros.items())
    header = _HEADER.format(kind=kind, where=where, macros=defined, extra=extra)
    text = _Text(program, plan, codes)
    layers = [text.layer(number, layer) for number, layer in enumerate(program.layers)]
    table = ",\n".join(text.steps())
    names = text.kernels()
    body = _SOURCE.format(
        steps=len(program.layers),
        options="\n".join(options(program)),
        kernels="\n".join(map(kernel, names)),
        maps=",\n".join(text.maps()),
        constants="\n".join([*text.constants, *layers]),
        table=table,
        finals="\n".join(_runs(program, plan)),
        kind=kind,
        start=f"{'' if program.input_grid else '(void *)'}(arena + {plan.offsets[source.storage]})",
        output=plan.offsets[result.storage],
    )
    code_bytes = code_bytes_predicted(names, len(plan.streams), len(program.loops))
    return Sources(header, body, plan.arena_bytes + _PAST_END, text.constants_bytes(), code_bytes)


def _vocabulary(program: Program) -> int:
    # all that reads tokens are gathers
    return min((_number(layer.fields["rows"]) for layer in program.layers if layer.kernel == "gather"), default=0)


def _runs(program: Program, plan: Plan) -> Iterable[str]:
    starts, ends = {loop.first: loop for loop in program.loops}, {loop.last for loop in program.loops}
    for each in plan.streams:
        if each.first in starts:
            _, last, turns = starts[each.first]
            yield f"  for (turn = 0; turn < {turns}; ++turn) {{"
            yield f"  for (unsigned i = {each.first}; i <= {last}; ++i) made[i] = 0;"
        yield f"  make(steps, {each.last}, {program.maps[program.layers[each.last].output].height});"
        if each.last in ends:
            yield "  }"


_TOKEN_BYTES = 4
_PAST_END = 8  # a decoder may look at the byte after a vector


class _Text:
    """Declarations of a program, in the order in which they were asked for."""

    def __init__(self, program: Program, plan: Plan, codes: Mapping[int, Code]) -> None:
        self.program, self.plan, self.codes = program, plan, codes
        self.constants: list[str] = []
        self._counts: Counter[str] = Counter()
        self._known: dict[str, str] = {}

    def kernels(self) -> list[str]:
        """Return the kernel files that are needed, in the order in which they must stand."""
        wanted = {"base", "steps"}
        for number, layer in enumerate(self.program.layers):
            wanted |= {layer.kernel, *layer.helpers}
            if number in self.codes:
                wanted.add(_decoder(layer, self.codes[number]))
        return [name for name in _ORDER if name in wanted]

    def maps(self) -> Iterable[str]:
        for each in self.program.maps:
            rows = min(self.plan.rows.get(each.storage, each.height), each.height)
            start = self.plan.offsets[each.storage]
            yield f"  {{arena + {start}, {each.height}, {each.width}, {each.channels}, {rows}}}"

    def layer(self, number: int, layer: Layer) -> str:
        """Return the declaration of a layer's struct."""
        fields = dict(layer.fields)
        if number in self.codes:
            code = self.codes[number]
            fields |= {"code": Array("uint8_t", [*code.content]), "segments": code.segments}
        said = [f".{name} = {self._value(value)}" for name, value in fields.items()]
        if number in self.codes:
            said.append(f".decode = {_decoder(layer, self.codes[number])}")
        return f"static const struct {layer.kernel} layer{number} = {{{', '.join(said)}}};"

    def steps(self) -> Iterable[str]:
        makers = {layer.output: number for number, layer in enumerate(self.program.layers)}
        for each in self.plan.streams:
            for number in range(each.first, each.last + 1):
                layer = self.program.layers[number]
                beside = [makers[at] for at in layer.inputs if each.first <= makers.get(at, -1) < number]
                first, second = [*beside, number, number][:2]
                height, rows, made = self.program.maps[layer.output].height, layer.rows, band(self.program, layer)
                yield (
                    f"  {{{layer.kernel}, &layer{number}, {height}, {made}, {rows.reach}, {rows.stride}, {rows.per}, "
                    f"{{{first}, {second}}}}}"
                )

    def constants_bytes(self) -> int:
        """Return what all that was declared takes, with the maps and the steps."""
        large = LARGE_BIASES in options(self.program)
        fixed = {"struct map": len(self.program.maps), "struct step": len(self.program.layers)}
        counts = Counter(f"struct {layer.kernel}" for layer in self.program.layers) + self._counts + Counter(fixed)
        return sum(count * constant_bytes(kind, large) for kind, count in counts.items())

    def _value(self, value: "int | At | Array | Structs | Fixed | Name") -> str:
        if isinstance(value, Name):
            return value.text
        if isinstance(value, Fixed):
            height, width, channels = value.shape
            place, size = self._array(value.kind, value.values), 2 if value.kind == "int16_t" else 1
            return self._declared(
                "struct map", [f"{{(int8_t *){place}, {height}, {width}, {channels * size}, {height}}}"]
            )
        if isinstance(value, At):
            return f"maps + {value.map}"
        if isinstance(value, Array):
            return self._array(value.kind, value.values)
        if isinstance(value, Structs):
            return self._declared(f"struct {value.name}", ["{" + self._fields(each) + "}" for each in value.items])
        return str(value)

    def _fields(self, fields: Fields) -> str:
        return ", ".join(f".{name} = {self._value(value)}" for name, value in fields.items())

    def _array(self, kind: str, values: Sequence[int]) -> str:
        return self._declared(kind, [_literal(value) for value in values])

    def _declared(self, kind: str, items: Sequence[str]) -> str:
        items = items or ["0"]
        lines = (", ".join(items[at : at + _PER_LINE]) for at in range(0, len(items), _PER_LINE))
        text = f"{kind} {{name}}[{len(items)}] = {{{{\n  " + ",\n  ".join(lines) + "}};"
        if text not in self._known:
            name = self._known[text] = f"table{len(self._known)}"
            self._counts[kind] += len(items)
            self.constants.append("static const " + text.replace("{{", "{").replace("}}", "}").replace("{name}", name))
        return self._known[text]


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def _literal(value: int) -> str:
    return "(-2147483647 - 1)" if value == -(2**31) else str(value)


def _decoder(layer: Layer, code: Code) -> str:
    return f"{_DECODERS[layer.kernel]}_{code.encoding.name}"


def number(value: float) -> str:
    """Return a float as C writes it, exactly."""
    text = f"{float(np.float32(value)):.9g}"
    return (text if any(mark in text for mark in ".en") else f"{text}.0") + "f"


def _grid(prefix: str, grid: Affine | None) -> dict[str, str]:
    if grid is None:
        return {}
    return {f"{prefix}_SCALE": number(grid.scale), f"{prefix}_ZERO_POINT": f"({grid.zero_point})"}


_DECODERS = {"conv": "tile", "linear": "linear", "wide": "wide"}
_KINDS = ("dense", "gap4", "gap5", "gap8", "bitmap")
_ORDER = (
    "base", "steps", "dense", "vector", "tile", *(f"tile_{kind}" for kind in _KINDS), "conv",
    *(f"linear_{kind}" for kind in _KINDS), "linear",
    "depthwise", "add", "multiply", "reciprocal", "inverse_root", "combine", "unit_of", "sum_of",
    "difference_of", "square_of", "product_of", "larger_of", "smaller_of", "leak_of", "quotient_of", "max_pool",
    "avg_pool", "mean", "lookup", "rescale", "rsqrt", "l2_norm", "matmul", "place", "softmax", "log_softmax", "move",
    "pick", "gather", "reduce", "bilinear", *(f"wide_{kind}" for kind in _KINDS), "wide", "curve", "copy",
)  # fmt: skip

_QUANTITIES = "the MODEL_INPUT_BYTES of the next input, rows first, channels last."
_TOKENS = "the MODEL_INPUT_TOKENS of the next input, each from 0 to MODEL_INPUT_VOCABULARY - 1."

_HEADER = """\
/* A neural network in C99, all integers: real = scale * (integer - zero point). No heap, nothing to link. Not
   reentrant: the input, every activation and the output share one static arena. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

{macros}

#ifdef __cplusplus
extern "C" {{
#endif

/* Where to write {where}
   model_run overwrites them. */
{kind} *model_input(void);

/* Computes, and returns MODEL_OUTPUT_BYTES values, MODEL_OUTPUT_CHANNELS of them for each place, valid until the next
   input is written. */
const int8_t *model_run(void);
{extra}
#ifdef __cplusplus
}}
#endif

#endif
"""

_SOURCE = """\
/* Kernels, weights and the order of work of one model. Written by a program: change the model, not this file. */
#include "model.h"

/* The first bytes are working memory of the kernels; activations lie, and follow each other, where the plan says. */
static union {{
  int8_t bytes[MODEL_ARENA_BYTES];
  int64_t aligned;
  void *address;
}} memory;
#define arena (memory.bytes)
#define MODEL_SCRATCH (memory.bytes)
#define STEPS {steps}
{options}

{kernels}
static const struct map maps[] = {{
{maps}}};

{constants}

static const struct step steps[STEPS] = {{
{table}}};

{kind} *model_input(void) {{ return {start}; }}

const int8_t *model_run(void) {{
  for (unsigned i = 0; i < STEPS; ++i) made[i] = 0;
{finals}
  return arena + {output};
}}
"""
