"""The text of model.h: what a model takes and gives, and how to reach it."""

from collections.abc import Iterable, Mapping

import numpy as np

from fedprune.export.c99.program import Map, Program
from fedprune.export.litert import Affine

_TOKEN_BYTES = 4
_QUANTITIES = "rows first, channels last."
_TOKENS = "each from 0 to MODEL_INPUT{}_VOCABULARY - 1."


def header_of(program: Program, arena_bytes: int, extra: str) -> str:
    """Return the header of a program that works in so many bytes; ``extra`` is put at its end."""
    ends = list(_inputs(program)), list(_outputs(program))
    macros: dict[str, int | str] = {"MODEL_ARENA_BYTES": arena_bytes}
    declared = list[str]()
    for place, (suffix, kind, index, grid) in enumerate(ends[0]):
        macros |= _taken(program, suffix, program.maps[index], grid)
        if place:
            declared.append(f"{kind} *model_input{suffix.lower()}(void);")
    for place, (suffix, index, grid) in enumerate(ends[1]):
        macros |= {f"MODEL_OUTPUT{suffix}_CHANNELS": program.maps[index].channels >> (index in program.wide)}
        macros |= {f"MODEL_OUTPUT{suffix}_BYTES": program.maps[index].size, **_grid(f"MODEL_OUTPUT{suffix}", grid)}
        if place:
            declared.append(f"const {program.kind(index)} *model_output{suffix.lower()}(void);")
    if declared:
        more = [[suffix for suffix, *_ in each[1:]] for each in ends]
        for name, suffixes in zip(("INPUT", "OUTPUT"), more, strict=True):
            calls = (f"each(model_{name.lower()}{at.lower()}(), MODEL_{name}{at}_BYTES)" for at in suffixes)
            macros[f"MODEL_MORE_{name}S(each)"] = " ".join(calls)
        declared = ["\n/* The others: where to write an input before a run, where an output is after it. */", *declared]
    if program.states:
        declared += ["\n/* The model remembers earlier inputs in its arena: begins anew, as before the first run. */"]
        declared += ["void model_reset(void);"]
    _, kind, _, first = ends[0][0]
    where = f"the MODEL_INPUT_{'TOKENS' if first is None else 'BYTES'} of the next input, "
    if program.outputs[0] in program.wide:
        macros |= {"MODEL_SCORES_ARE_INT16": 1}
    return _HEADER.format(
        kind=kind,
        result=program.kind(program.outputs[0]),
        where=where + (_TOKENS.format("") if first is None else _QUANTITIES),
        macros="\n".join(f"#define {name} {value}" for name, value in macros.items()),
        more="".join(f"{line}\n" for line in declared),
        extra=extra,
    )


def accessors(program: Program, offsets: Mapping[int, int]) -> Iterable[str]:
    """Return the functions that say where the ends lie, but for the first output; ``offsets`` are by storage."""
    for suffix, kind, index, _ in _inputs(program):
        cast = "" if kind == "int8_t" else "(void *)"
        at = offsets[program.maps[index].storage]
        yield f"{kind} *model_input{suffix.lower()}(void) {{ return {cast}(arena + {at}); }}"
    for suffix, index, _ in [*_outputs(program)][1:]:
        at = offsets[program.maps[index].storage]
        where = f"(const void *)(arena + {at})" if index in program.wide else f"arena + {at}"
        yield f"const {program.kind(index)} *model_output{suffix.lower()}(void) {{ return {where}; }}"


def number(value: float) -> str:
    """Return a float as C writes it, exactly."""
    text = f"{float(np.float32(value)):.9g}"
    return (text if any(mark in text for mark in ".en") else f"{text}.0") + "f"


def _inputs(program: Program) -> Iterable[tuple[str, str, int, Affine | None]]:
    for place, (index, grid) in enumerate(zip(program.inputs, program.input_grids, strict=True)):
        yield _suffix(place), "int32_t" if grid is None else program.kind(index), index, grid


def _outputs(program: Program) -> Iterable[tuple[str, int, Affine]]:
    for place, (index, grid) in enumerate(zip(program.outputs, program.output_grids, strict=True)):
        yield _suffix(place), index, grid


def _suffix(place: int) -> str:
    return f"_{place + 1}" if place else ""


def _taken(program: Program, suffix: str, source: Map, grid: Affine | None) -> dict[str, int | str]:
    channels = source.channels >> (program.maps.index(source) in program.wide)
    sizes = {"HEIGHT": source.height, "WIDTH": source.width, "CHANNELS": channels}
    if grid is None:
        sizes = {"TOKENS": source.size // _TOKEN_BYTES, "VOCABULARY": _vocabulary(program)}
    prefix = f"MODEL_INPUT{suffix}"
    named = {f"{prefix}_{name}": value for name, value in sizes.items()}
    return {**named, f"{prefix}_BYTES": source.size, **_grid(prefix, grid)}


def _vocabulary(program: Program) -> int:
    # all that reads tokens are gathers
    rows = [
        rows for layer in program.layers if layer.kernel == "gather" and isinstance(rows := layer.fields["rows"], int)
    ]
    return min(rows, default=0)


def _grid(prefix: str, grid: Affine | None) -> dict[str, int | str]:
    if grid is None:
        return {}
    return {f"{prefix}_SCALE": number(grid.scale), f"{prefix}_ZERO_POINT": f"({grid.zero_point})"}


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

/* Computes, and returns the MODEL_OUTPUT_BYTES of the output, MODEL_OUTPUT_CHANNELS values for each place, valid until
   the next input is written. */
const {result} *model_run(void);
{more}{extra}
#ifdef __cplusplus
}}
#endif

#endif
"""
