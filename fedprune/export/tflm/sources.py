"""A model as two C sources, for any C99 or C++ compiler: its aligned bytes, and macros for what a caller must know."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from fedprune.export.litert import Affine, Port, Ports
from fedprune.export.tflm.operators import operators, registration

_ALIGNMENT = 16
_PER_LINE = 20
_TOKEN_BYTES = 4


class Sources(NamedTuple):
    """The text of both files."""

    header: str
    source: str


def sources(
    model: bytes,
    ports: Ports,
    *,
    arena_bytes: int,
    labels: Sequence[str],
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> Sources:
    """Return ``model_data.h`` and ``model_data.c`` of a model of int8, or of tokens and int8.

    ``mean`` and ``std`` normalise the input's elements in turn, channels last: one a channel, or one a column and
    channel, and so on, repeating; tokens have none. ``labels`` name the outputs. Raises ``ValueError`` if the model
    takes or gives something else, or if their numbers do not fit it.
    """
    source, result = ports.input, ports.output
    if (source.grid is None and not source.vocabulary) or result.grid is None:
        raise ValueError("the C sources are for a model of int8 or tokens, and this one takes or gives floats")
    classes = result.shape[-1] if result.shape else 1
    if len(labels) != classes:
        raise ValueError(f"{len(labels)} labels for a model of {classes} outputs")
    given = _tokens(source) if source.grid is None else _quantities(source, source.grid, len(mean), len(std))
    needed = operators(model)
    macros = {
        "MODEL_DATA_BYTES": len(model),
        "MODEL_ARENA_BYTES": -(-arena_bytes // _ALIGNMENT) * _ALIGNMENT,
        **given,
        "MODEL_OUTPUT_COUNT": classes,
        **_grid("MODEL_OUTPUT", result.grid),
        "MODEL_OPERATORS": len(needed),
        "MODEL_ADD_OPERATORS(resolver)": f"({' || '.join(f'(resolver).{registration(name)}()' for name in needed)})",
    }
    defined = "\n".join(f"#define {name} {value}" for name, value in macros.items())
    constants = {"mean": mean, "std": std} if source.grid else {}
    values = (
        f"const float model_input_{name}[MODEL_INPUT_MEANS] = {{{', '.join(map(_float, each))}}};\n"
        for name, each in constants.items()
    )
    names = ",\n    ".join(map(_string, labels))
    source_text = _SOURCE.format(bytes=_rows(model), values="".join(values), labels=names)
    declared = "".join(f"extern const float model_input_{name}[MODEL_INPUT_MEANS];\n" for name in constants)
    types = ["int16" if port.wide else "int8" for port in ports]
    most = 2**15 if source.wide else 2**7
    said = (_QUANTITIES if source.grid else _TOKENS).format(*types, -most, most - 1)
    return Sources(_HEADER.format(input=said, macros=defined, declared=declared), source_text)


def _quantities(source: Port, grid: Affine, means: int, stds: int) -> dict[str, int | str]:
    elements = math.prod(source.shape)
    if means != stds or not means or elements % means:
        raise ValueError(f"mean of {means} and std of {stds} values for an input of {elements} elements")
    inner = source.shape[1:] or source.shape
    height, width, channels = (*[1] * (3 - len(inner)), *inner)[-3:]
    return {
        "MODEL_INPUT_HEIGHT": height,
        "MODEL_INPUT_WIDTH": width,
        "MODEL_INPUT_CHANNELS": channels,
        "MODEL_INPUT_BYTES": elements << source.wide,
        "MODEL_INPUT_MEANS": means,
        **_grid("MODEL_INPUT", grid),
    }


def _tokens(source: Port) -> dict[str, int | str]:
    count = math.prod(source.shape)
    return {
        "MODEL_INPUT_TOKENS": count,
        "MODEL_INPUT_VOCABULARY": source.vocabulary,
        "MODEL_INPUT_BYTES": _TOKEN_BYTES * count,
    }


def initialisers(labels: Sequence[str], mean: Sequence[float] = (), std: Sequence[float] = ()) -> str:
    """Return macros for the header of C99 sources: initialisers of arrays that cost nothing until they are used.

    Tokens have neither mean nor std.
    """
    lists = {
        "MODEL_LABELS": [_string(label) for label in labels],
        "MODEL_INPUT_MEAN": [_float(value) for value in mean],
        "MODEL_INPUT_STD": [_float(value) for value in std],
    }
    defined = [f"#define {name} {{{', '.join(items)}}}" for name, items in lists.items() if items]
    return "\n".join(["\n/* Initialisers: static const char *const labels[] = MODEL_LABELS; */", *defined, ""])


def _grid(prefix: str, grid: Affine) -> dict[str, str]:
    return {f"{prefix}_SCALE": _float(grid.scale), f"{prefix}_ZERO_POINT": f"({grid.zero_point})"}


def _float(value: float) -> str:
    text = f"{float(value):.9g}"  # nine digits give a float back exactly
    return (text if any(mark in text for mark in ".en") else f"{text}.0") + "f"


def _rows(content: bytes) -> str:
    starts = range(0, len(content), _PER_LINE)
    return ",\n".join("    " + ",".join(map(str, content[start : start + _PER_LINE])) for start in starts)


def _string(text: str) -> str:
    # Octal escapes end after three digits, hexadecimal ones swallow the letters that follow.
    content = text.encode(errors="replace")
    plain = "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}" for byte in content)
    return f'"{plain}"'


_QUANTITIES = """\
The input is {0}, the output {1}: real = scale * (integer - zero point).
   Element i of the input, rows first and channels last, is, with j = i % MODEL_INPUT_MEANS,
   round((value - mean[j]) / std[j] / MODEL_INPUT_SCALE) + MODEL_INPUT_ZERO_POINT, saturated to {2}..{3}."""
_TOKENS = """\
The input are MODEL_INPUT_TOKENS tokens, int32, each from 0 to
   MODEL_INPUT_VOCABULARY - 1; the output is {1}: real = scale * (integer - zero point)."""

_HEADER = """\
/* A model for TensorFlow Lite Micro. {input}
   Its operators, and no others, must be registered: tflite::MicroMutableOpResolver<MODEL_OPERATORS> resolver;
   MODEL_ADD_OPERATORS(resolver) is false where that went well. */
#ifndef MODEL_DATA_H
#define MODEL_DATA_H

{macros}

#ifdef __cplusplus
extern "C" {{
#endif

extern const unsigned char model_data[MODEL_DATA_BYTES]; /* aligned to 16 bytes */
{declared}extern const char *const model_labels[MODEL_OUTPUT_COUNT];

#ifdef __cplusplus
}}
#endif

#endif
"""

_SOURCE = """\
/* The bytes of the model, and the names of its outputs. */
#include "model_data.h"

#if defined(__cplusplus) && __cplusplus >= 201103L
#define MODEL_ALIGNED alignas(16)
#elif !defined(__cplusplus) && defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define MODEL_ALIGNED _Alignas(16)
#elif defined(_MSC_VER)
#define MODEL_ALIGNED __declspec(align(16))
#else
#define MODEL_ALIGNED __attribute__((aligned(16)))
#endif

MODEL_ALIGNED const unsigned char model_data[MODEL_DATA_BYTES] = {{
{bytes}
}};

{values}const char *const model_labels[MODEL_OUTPUT_COUNT] = {{
    {labels}
}};
"""
