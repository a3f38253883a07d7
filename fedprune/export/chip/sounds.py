"""Write the front end of a model of sounds in C99: from 16-bit samples to features and the model's int8 input."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedprune.data.own.features import FLOOR, Tables, tables
from fedprune.experiment.own_data import Sounds
from fedprune.export.c99.files import folder as c_folder
from fedprune.export.c99.header import number
from fedprune.files import write_atomically
from fedprune.types import Tensor

_PER_LINE = 12
_PROGRAM = ("main.c", "size.c")
_SCALE = 2.0**-16  # of the window: samples of 16 bits become [-1, 1), and the C transform gives twice the spectrum


def write(settings: Sounds, directory: Path | str) -> list[Path]:
    """Write `sources` and a program that begins with samples beside a model's C files; return their paths.

    To be called after `write_files`, whose ``main.c`` and ``size.c`` it replaces; the makefile there then builds
    ``features.c`` too. Each file is whole or as it was before. Raises as `sources`, and ``OSError`` where one cannot be
    written.
    """
    place, directory = c_folder("sounds"), Path(directory)
    contents = {**sources(settings), **{name: (place / name).read_text("utf-8") for name in _PROGRAM}}
    for name, text in contents.items():
        write_atomically(directory / name, text.encode())
    return [directory / name for name in contents]


def sources(settings: Sounds) -> dict[str, str]:
    """Return ``features.h`` and ``features.c``: name -> text.

    They repeat `fedprune.data.own.features` in float32 without a heap or a library, and take from ``model.h`` its
    input's scale and zero point, ``MODEL_INPUT_MEAN`` and ``MODEL_INPUT_STD``, which therefore must be those of raw
    features: in turn for the elements of an input, frames first. What does not fit ``model.h`` does not compile.

    Raises ``ValueError`` as `tables`, and ``RuntimeError`` where this copy of fedprune came without its C files.
    """
    kind, frames, values = settings.kind()
    constants = None if kind == "raw" else tables(settings)
    frames, values = (frames, values) if constants else (settings.samples, 1)
    macros = {
        "FEATURES_RATE": settings.rate,
        "FEATURES_SAMPLES": settings.samples,
        "FEATURES_INPUT_BYTES": 2 * settings.samples,
        "FEATURES_FRAMES": frames,
        "FEATURES_VALUES": values,
        "FEATURES_COUNT": frames * values,
        "FEATURES_SCRATCH_BYTES": 0 if constants is None else 4 * _scratch(constants),
    }
    declared = _tables(constants) if constants else ["#define STRIDE 1"]
    parts = ("spectrum" if constants else "raw", "ends")
    texts = [(c_folder("sounds") / f"{part}.c").read_text("utf-8") for part in parts]
    header = _HEADER.format(features=settings.features, macros=_defined(macros))
    return {"features.h": header, "features.c": "\n".join([_SOURCE, *declared, "", *texts])}


def facts(settings: Sounds) -> dict[str, Any]:
    """Return what a model's card says of its sounds, for people and programs. Raises ``ValueError`` as `tables`."""
    said = {"features": settings.features, "rate": settings.rate, "seconds": settings.seconds}
    if settings.kind()[0] == "raw":
        return said
    constants = tables(settings)
    window = {"window_samples": len(constants.window), "stride_samples": constants.stride}
    costs = {"features_constants_bytes": _constants_bytes(constants), "features_ram_bytes": 4 * _scratch(constants)}
    return {**said, **window, **costs}


def _tables(constants: Tables) -> list[str]:
    # A window is symmetric, a circle has four quarters, and a band few bins: only that is stored.
    macros: dict[str, int | str] = {
        "STRIDE": constants.stride,
        "WINDOW": len(constants.window),
        "POINTS": constants.points,
        "BANDS": len(constants.starts),
        "COEFFICIENTS": 0 if constants.cosines is None else len(constants.cosines),
        "FLOOR": number(FLOOR),
    }
    arrays = _arrays(constants)
    lines = [_defined(macros), "", f"static float scratch[{_scratch(constants)}];"]
    return [*lines, *(_array(name, values) for name, values in arrays.items())]


def _arrays(constants: Tables) -> Mapping[str, Tensor]:
    angles = 2 * np.pi / constants.points * np.arange(constants.points // 4 + 1)
    arrays = {
        "window": constants.window[: constants.stride + 1] * np.float32(_SCALE),
        "quarter": np.cos(angles).astype(np.float32),
        "firsts": constants.bins[constants.starts].astype(np.uint16),
        "counts": np.diff(constants.starts, append=len(constants.bins)).astype(np.uint16),
        "weights": constants.weights,
    }
    return arrays if constants.cosines is None else {**arrays, "cosines": constants.cosines.reshape(-1)}


def _scratch(constants: Tables) -> int:
    """Floats of static memory."""
    return constants.points + (0 if constants.cosines is None else len(constants.starts))


def _constants_bytes(constants: Tables) -> int:
    return sum(values.nbytes for values in _arrays(constants).values())


def _array(name: str, values: Tensor) -> str:
    whole = values.dtype == np.uint16
    items = [str(value) if whole else number(value) for value in values.tolist()]
    lines = (", ".join(items[at : at + _PER_LINE]) for at in range(0, len(items), _PER_LINE))
    kind = "uint16_t" if whole else "float"
    return f"static const {kind} {name}[{len(items)}] = {{\n  " + ",\n  ".join(lines) + "};"


def _defined(macros: Mapping[str, int | str]) -> str:
    return "\n".join(f"#define {name} {value}" for name, value in macros.items())


_HEADER = """\
/* What a model of sounds sees ({features}), from samples of 16 bits, in float32. No heap, nothing to link. Not
   reentrant: there is one static scratch, of FEATURES_SCRATCH_BYTES. */
#ifndef FEATURES_H
#define FEATURES_H

#include <stdint.h>

{macros}

#ifdef __cplusplus
extern "C" {{
#endif

/* Computes FEATURES_COUNT features of FEATURES_SAMPLES samples, FEATURES_RATE a second, frame by frame. */
void model_features(const int16_t *samples, float *features);

/* Normalises and quantises FEATURES_COUNT features, into the input of the model. */
void model_quantise(const float *features, int8_t *input);

/* Both at once, without memory for all features: model_hear(samples, model_input()). */
void model_hear(const int16_t *samples, int8_t *input);

#ifdef __cplusplus
}}
#endif

#endif
"""

_SOURCE = """\
/* The features of sounds, and their constants. Written by a program: change the experiment, not this file. */
#include "features.h"

#include "model.h"

#if MODEL_INPUT_BYTES != FEATURES_COUNT
#error "these are not the features of this model: its input has another size"
#endif
"""
