"""A .tflite that somebody brings, made ready for integer kernels: what is inside its ends, for one example."""

from pathlib import Path
from typing import NamedTuple

from fedprune.export.chip.compacting import compacted
from fedprune.export.litert.batch import single
from fedprune.export.litert.ends import inside
from fedprune.export.litert.examples import examples
from fedprune.export.litert.flatbuffer import File
from fedprune.export.litert.quantising import is_float, quantised
from fedprune.export.litert.reader import ModelError, read
from fedprune.export.tflm.unpack import unpacked


class Brought(NamedTuple):
    """A file as the kernels take it."""

    file: File
    whole: File
    """The same with all its channels."""
    inputs: tuple[str, ...]
    """The types of the file's own inputs: ``float32`` and ``uint8`` are int8 in ``file``."""
    outputs: tuple[str, ...]
    said: tuple[str, ...]
    """What was changed, a line each."""


def brought(content: bytes, data: Path | None = None) -> Brought:
    """Return what the kernels take of a .tflite; one of floats is quantised by the examples in ``data``.

    Raises ``ModelError`` for a file that is not sound, ``ValueError`` for examples that do not fit it, and
    ``RuntimeError`` where LiteRT does not run it.
    """
    whole, said = unpacked(read(content)), list[str]()
    if data is not None:
        if not is_float(whole):
            raise ModelError("the model does not compute in floats: there is nothing to calibrate")
        drawn = examples(whole := single(whole), data)
        ends = tuple((*(whole.tensors[at].dtype.name for at in each),) for each in (whole.inputs, whole.outputs))
        file, inputs, outputs = unpacked(quantised(whole, drawn)), *ends
        said.append(f"quantised to int8 by the extremes over {len(drawn)} examples")
    else:
        file, inputs, outputs = inside(whole)
    alone = single(file)
    own = [file.tensors[index].dtype.name for index in (*file.inputs, *file.outputs)]
    if changed := sorted({given for given, kept in zip((*inputs, *outputs), own, strict=True) if given != kept}):
        kinds = " and ".join(sorted({*own} & {"int8", "int16"}, reverse=True))
        words = " and ".join(changed)
        said.append(f"the model inside takes and gives {kinds}; model.h has functions from and to {words}")
    if alone is not file:
        count = file.tensors[file.inputs[0]].shape[0]
        said.append(f"the file's batch of {count} is fixed to one: each run takes one example")
    whole = unpacked(alone)
    made = compacted(whole)
    if made.removed:
        said.append(f"{made.removed} channels that no input moves, or that nobody reads, are removed: the same bits")
    return Brought(unpacked(made.file), whole, inputs, outputs, (*said,))


def helpers(found: Brought) -> str:
    """Return C for the end of a header: from the file's own numbers to those inside, and back."""
    file = found.file
    taken, given = (
        {(theirs, file.tensors[index].dtype.name) for theirs, index in zip(types, ends, strict=True)}
        for types, ends in ((found.inputs, file.inputs), (found.outputs, file.outputs))
    )
    parts = [_FROM[kinds] for kinds in sorted(taken & _FROM.keys())] + [
        _TO[kinds] for kinds in sorted(given & _TO.keys())
    ]
    return "\n".join(["\n/* The ends of the file that this was made of. */", *parts, ""]) if parts else ""


_INTO = """\
/* A real number as an input takes it: model{name}_from_float(value, MODEL_INPUT_SCALE, MODEL_INPUT_ZERO_POINT). */
static inline int{bits}_t model{name}_from_float(float value, float scale, int zero_point)
{{
    float steps = value / scale;
    int whole = steps > -65536.0f ? (int)(steps < 65536.0f ? steps : 65536.0f) : -65536;
    steps -= (float)whole;
    whole += zero_point + (steps >= 0.5f) - (steps <= -0.5f);
    return (int{bits}_t)(whole < {low} ? {low} : whole > {high} ? {high} : whole);
}}"""
_OUT_OF = """\
/* The real number of a score: model{name}_to_float(score, MODEL_OUTPUT_SCALE, MODEL_OUTPUT_ZERO_POINT). */
static inline float model{name}_to_float(int{bits}_t score, float scale, int zero_point)
{{
    return scale * (float)(score - zero_point);
}}"""
_FROM = {
    ("float32", "int8"): _INTO.format(name="", bits=8, low=-128, high=127),
    ("float32", "int16"): _INTO.format(name="_int16", bits=16, low=-32768, high=32767),
    ("uint8", "int8"): """\
/* A byte as an input takes it. */
static inline int8_t model_from_uint8(uint8_t value) { return (int8_t)((int)value - 128); }""",
}
_TO = {
    ("float32", "int8"): _OUT_OF.format(name="", bits=8),
    ("float32", "int16"): _OUT_OF.format(name="_int16", bits=16),
    ("uint8", "int8"): """\
/* A score as a byte. */
static inline uint8_t model_to_uint8(int8_t score) { return (uint8_t)(score + 128); }""",
}
