"""A .tflite that somebody brings, made ready for integer kernels: what is inside its ends, for one example."""

from typing import NamedTuple

from fedprune.export.litert.batch import single
from fedprune.export.litert.ends import inside
from fedprune.export.litert.flatbuffer import File
from fedprune.export.litert.reader import read
from fedprune.export.tflm.unpack import unpacked


class Brought(NamedTuple):
    """A file as the kernels take it."""

    file: File
    inputs: tuple[str, ...]
    """The types of the file's own inputs: ``float32`` and ``uint8`` are int8 in ``file``."""
    outputs: tuple[str, ...]
    said: tuple[str, ...]
    """What was changed, a line each."""


def brought(content: bytes) -> Brought:
    """Return what the kernels take of a .tflite. Raises ``ModelError`` for a file that is not sound."""
    whole = unpacked(read(content))
    file, inputs, outputs = inside(whole)
    alone = single(file)
    said, own = list[str](), [file.tensors[index].dtype.name for index in (*file.inputs, *file.outputs)]
    if changed := sorted({given for given, kept in zip((*inputs, *outputs), own, strict=True) if given != kept}):
        said.append(f"the model inside takes and gives int8; model.h has functions from and to {' and '.join(changed)}")
    if alone is not file:
        count = file.tensors[file.inputs[0]].shape[0]
        said.append(f"the file's batch of {count} is fixed to one: each run takes one example")
    return Brought(alone, inputs, outputs, (*said,))


def helpers(found: Brought) -> str:
    """Return C for the end of a header: from the file's own numbers to those inside, and back."""
    taken, given = ({*types} & {"float32", "uint8"} for types in (found.inputs, found.outputs))
    parts = [_FROM[name] for name in sorted(taken)] + [_TO[name] for name in sorted(given)]
    return "\n".join(["\n/* The ends of the file that this was made of. */", *parts, ""]) if parts else ""


_FROM = {
    "float32": """\
/* A real number as an input takes it: model_from_float(value, MODEL_INPUT_SCALE, MODEL_INPUT_ZERO_POINT). */
static inline int8_t model_from_float(float value, float scale, int zero_point)
{
    float steps = value / scale;
    int whole = steps > -65536.0f ? (int)(steps < 65536.0f ? steps : 65536.0f) : -65536;
    steps -= (float)whole;
    whole += zero_point + (steps >= 0.5f) - (steps <= -0.5f);
    return (int8_t)(whole < -128 ? -128 : whole > 127 ? 127 : whole);
}""",
    "uint8": """\
/* A byte as an input takes it. */
static inline int8_t model_from_uint8(uint8_t value) { return (int8_t)((int)value - 128); }""",
}
_TO = {
    "float32": """\
/* The real number of a score: model_to_float(score, MODEL_OUTPUT_SCALE, MODEL_OUTPUT_ZERO_POINT). */
static inline float model_to_float(int8_t score, float scale, int zero_point)
{
    return scale * (float)(score - zero_point);
}""",
    "uint8": """\
/* A score as a byte. */
static inline uint8_t model_to_uint8(int8_t score) { return (uint8_t)(score + 128); }""",
}
