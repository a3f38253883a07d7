"""The text of model.c and model.h: kernels that a program needs, its constants, its arena and its steps."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from fedprune.export.c99.encoding import ENCODINGS, Code, decoder
from fedprune.export.c99.files import kernel
from fedprune.export.c99.flash import code_bytes_predicted, constant_bytes
from fedprune.export.c99.header import accessors, header_of
from fedprune.export.c99.options import LARGE_BIASES, options
from fedprune.export.c99.plan import Plan
from fedprune.export.c99.program import Array, At, Fields, Fixed, Layer, Name, Program, Structs
from fedprune.export.c99.streams import band
from fedprune.export.c99.units import span

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
    arena_bytes = max(plan.arena_bytes + _PAST_END, *_ends(program, plan, codes))
    text = _Text(program, plan, codes)
    layers = [text.layer(number, layer) for number, layer in enumerate(program.layers)]
    table = ",\n".join(text.steps())
    names = text.kernels()
    start = plan.offsets[program.maps[program.outputs[0]].storage]
    body = _SOURCE.format(
        aligned=_aligned(program, codes),
        steps=len(program.layers),
        options="\n".join(options(program)),
        kernels="\n".join(map(kernel, names)),
        maps=",\n".join(text.maps()),
        constants="\n".join([*text.constants, *layers]),
        table=table,
        finals="\n".join(_runs(program, plan)),
        ends="\n".join([*accessors(program, plan.offsets), *text.states()]),
        begin="  if (!begun) model_reset();\n" if program.states else "",
        kind=program.kind(first := program.outputs[0]),
        output=f"(const void *)(arena + {start})" if first in program.wide else f"arena + {start}",
    )
    code_bytes = code_bytes_predicted(names, len(plan.streams), len(program.loops))
    header = header_of(program, arena_bytes, extra)
    return Sources(header, body, arena_bytes, text.constants_bytes(), code_bytes)


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


_PAST_END = 8  # a decoder may look at the byte after a vector
_COLUMN = 16  # bytes, of a tile's


def _ends(program: Program, plan: Plan, codes: Mapping[int, Code]) -> Iterable[int]:
    """How far decoders of places look: to the end of a unit's groups, the last of which may lie past its filter's."""
    yield 0
    for number, (encoding, *_) in codes.items():
        layer = program.layers[number]
        if not encoding.kept or layer.filters is None:
            continue
        weights, every = layer.filters.levels.shape[1], span(encoding.kept, encoding.width)
        whole = -(-weights // every) * every
        start = plan.offsets[program.maps[layer.inputs[0]].storage]
        yield {"conv": _COLUMN * whole, "linear": start + whole, "wide": start + 2 * whole}[layer.kernel]


def _aligned(program: Program, codes: Mapping[int, Code]) -> str:
    """Where groups of four columns begin at multiples of their size, since a decoder by hand reckons by it."""
    tiles = (code for number, code in codes.items() if program.layers[number].kernel == "conv")
    return f" __attribute__((aligned({4 * _COLUMN})))" if any(code.encoding.width == 4 for code in tiles) else ""


class _Text:
    """Declarations of a program, in the order in which they were asked for."""

    def __init__(self, program: Program, plan: Plan, codes: Mapping[int, Code]) -> None:
        self.program, self.plan, self.codes = program, plan, codes
        self.constants: list[str] = []
        self._counts: Counter[str] = Counter()
        self._known: dict[str, str] = {}
        starts = {start for _, start in program.states if len({*start}) > 1}
        self.starts = {start: self._array("uint8_t", [*start]) for start in sorted(starts)}

    def kernels(self) -> list[str]:
        """Return the kernel files that are needed, in the order in which they must stand."""
        wanted = {"base", "steps"}
        for number, layer in enumerate(self.program.layers):
            wanted |= {layer.kernel, *layer.helpers}
            if number in self.codes:
                wanted.add(decoder(layer.kernel, self.codes[number]))
        return [name for name in _ORDER if name in wanted]

    def maps(self) -> Iterable[str]:
        for each in self.program.maps:
            rows = min(self.plan.rows.get(each.storage, each.height), each.height)
            start = self.plan.offsets[each.storage]
            yield f"  {{arena + {start}, {each.height}, {each.width}, {each.channels}, {rows}}}"

    def states(self) -> Iterable[str]:
        """Return the function that begins anew."""
        if not self.program.states:
            return
        yield "static uint8_t begun;\n\nvoid model_reset(void) {\n  begun = 1;"
        for index, start in self.program.states:
            where = f"arena + {self.plan.offsets[self.program.maps[index].storage]}"
            if len({*start}) == 1:
                yield f"  __builtin_memset({where}, {start[0]}, {len(start)});"
            else:
                yield f"  __builtin_memcpy({where}, {self.starts[start]}, {len(start)});"
        yield "}"

    def layer(self, number: int, layer: Layer) -> str:
        """Return the declaration of a layer's struct."""
        fields = dict(layer.fields)
        if number in self.codes:
            code = self.codes[number]
            fields |= {"code": Array("uint8_t", [*code.content]), "segments": code.segments}
        said = [f".{name} = {self._value(value)}" for name, value in fields.items()]
        if number in self.codes:
            said.append(f".decode = {decoder(layer.kernel, self.codes[number])}")
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


_KINDS = tuple(each.name for each in ENCODINGS)
_ORDER = (
    "base", "steps", "dense_helium", "dense", "vector", "tile", *(f"tile_{kind}" for kind in _KINDS), "conv",
    *(f"linear_{kind}" for kind in _KINDS), "linear",
    "depthwise", "add", "multiply", "reciprocal", "inverse_root", "combine", "unit_of", "sum_of",
    "difference_of", "square_of", "product_of", "larger_of", "smaller_of", "leak_of", "quotient_of", "max_pool",
    "avg_pool", "mean", "lookup", "rescale", "rsqrt", "l2_norm", "matmul", "place", "softmax", "log_softmax", "move",
    "pick", "gather", "reduce", "bilinear", *(f"wide_{kind}" for kind in _KINDS), "filter16", "wide",
    "conv16", "pool16", "softmax16", "curved", "curve", "copy", "svdf", "lstm",
)  # fmt: skip

_SOURCE = """\
/* Kernels, weights and the order of work of one model. Written by a program: change the model, not this file. */
#include "model.h"

/* The first bytes are working memory of the kernels; activations lie, and follow each other, where the plan says. */
static union {{
  int8_t bytes[MODEL_ARENA_BYTES];
  int64_t aligned;
  void *address;
}} memory{aligned};
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

{ends}

const {kind} *model_run(void) {{
{begin}  for (unsigned i = 0; i < STEPS; ++i) made[i] = 0;
{finals}
  return {output};
}}
"""
