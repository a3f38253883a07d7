"""The C front end of sounds: Python's features and int8 inputs, on this machine under every check and on a board."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from c99_files import Draft
from c99_runs import CHECKS, compiler, written

from fedprune.data.own.features import features, tables
from fedprune.experiment.own_data import Sounds
from fedprune.export import c99
from fedprune.export.c99 import boards
from fedprune.export.chip import sounds
from fedprune.export.litert import reference
from fedprune.export.tflm.sources import initialisers

SETTINGS = [
    Sounds(),
    Sounds(features="logmel49x40"),
    Sounds(features="mfcc98x13"),
    Sounds(features="logmel31x64", rate=22050, seconds=1.3),
    Sounds(features="mfcc49x40", rate=8000),
    Sounds(features="logmel98x40"),
    Sounds(features="logmel99x20", rate=8000),
    Sounds(features="logmel3x40"),
    Sounds(features="logmel20x1", rate=100, seconds=1),
    Sounds(features="raw", rate=4000, seconds=0.5),
]
MEAN, STD = 0.25, 1.5
MODEL = """\
#include <stdint.h>
#define MODEL_INPUT_BYTES {count}
#define MODEL_INPUT_SCALE {scale}f
#define MODEL_INPUT_ZERO_POINT (-7)
#define MODEL_INPUT_MEAN {{{mean}}}
#define MODEL_INPUT_STD {{{std}}}
"""
MAIN = r"""#include <stdio.h>
#include <string.h>
#include "features.h"
static int16_t samples[FEATURES_SAMPLES];
static float features[FEATURES_COUNT];
static int8_t input[FEATURES_COUNT], heard[FEATURES_COUNT];
int main(void) {
  while (fread(samples, 1, FEATURES_INPUT_BYTES, stdin) == FEATURES_INPUT_BYTES) {
    model_features(samples, features);
    model_quantise(features, input);
    model_hear(samples, heard);
    if (memcmp(input, heard, sizeof input)) return 1;
    if (fwrite(features, sizeof features, 1, stdout) != 1 || fwrite(input, sizeof input, 1, stdout) != 1) return 2;
  }
  return 0;
}
"""


def recordings(settings: Sounds) -> np.ndarray:
    """Loud and quiet noise, tones, a sweep, silence, squares at full scale, a click, a constant, the least step."""
    size, rate = settings.samples, settings.rate
    draw, time = np.random.default_rng(5), np.arange(settings.samples) / settings.rate
    tones = [np.sin(2 * np.pi * share * rate * time) for share in (0.01, 0.0625, 0.13, 0.4)]
    squares = [np.where(np.arange(size) // half % 2, 1, -1) for half in (1, 7, 50)]
    click, step = np.eye(1, size, size // 2)[0], draw.choice([-1, 0, 1], size) / 32768
    noises = [draw.normal(0, sigma, size) for sigma in (0.3, 0.01, 0.0003)]
    sweep = np.sin(2 * np.pi * rate / 5 * time**2 / max(settings.seconds, 1))
    drawn = [*noises, *tones, tones[1] / 300, sweep, np.zeros(size), *squares, click, np.full(size, -1), step]
    return np.clip(np.rint(np.stack(drawn) * 32768), -32768, 32767).astype(np.int16)


def normalisation(settings: Sounds) -> tuple[list[float], list[float]]:
    """Mean and std of each coefficient or band."""
    values = settings.kind()[2] or 1
    return [MEAN - 2.0 * at for at in range(values)], [STD + 0.3 * at for at in range(values)]


def scale(settings: Sounds) -> float:
    return 0.008 if settings.features == "raw" else 0.12


def model_header(settings: Sounds, count: int) -> str:
    mean, std = (
        ", ".join(f"{each:.9g}f" if each % 1 else f"{each:.1f}f" for each in n) for n in normalisation(settings)
    )
    return MODEL.format(count=count, scale=scale(settings), mean=mean, std=std)


def real_levels(settings: Sounds, found: np.ndarray) -> np.ndarray:
    """What is rounded to int8, in float64."""
    mean, std = (np.resize(np.float64(each), found.shape[1]) for each in normalisation(settings))
    return (found - mean) / std / scale(settings) - 7


def in_python(settings: Sounds, given: np.ndarray) -> np.ndarray:
    return features(given.astype(np.float32) / 32768, settings).reshape(len(given), -1)


def built(settings: Sounds, folder: Path, main: str, *options: str) -> subprocess.CompletedProcess[str]:
    count = math.prod(features(np.zeros((1, settings.samples), np.float32), settings).shape)
    for name, text in {**sounds.sources(settings), "model.h": model_header(settings, count), "main.c": main}.items():
        (folder / name).write_text(text)
    command = [compiler(), *options, "main.c", "features.c", "-o", "program"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("options", [["-O2"], ["-O1", *CHECKS]], ids=["fast", "checked"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: f"{each.features} {each.rate}")
def test_features_and_inputs_are_those_of_python(settings: Sounds, options: list[str], tmp_path: Path) -> None:
    compiled = built(settings, tmp_path, MAIN, *CHECKS[:5], *options)
    assert compiled.returncode == 0, compiled.stderr
    given = recordings(settings)
    ran = subprocess.run([tmp_path / "program"], input=given.tobytes(), capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    expected = in_python(settings, given)
    rows = np.frombuffer(ran.stdout, np.int8).reshape(len(given), -1)
    found = rows[:, : 4 * expected.shape[1]].copy().view(np.float32)
    inputs = rows[:, 4 * expected.shape[1] :]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    levels = real_levels(settings, expected)
    differing = inputs != np.clip(np.rint(levels), -128, 127)
    # where the real number lies half way between two levels, rounding decides
    np.testing.assert_allclose(np.abs(inputs - levels)[differing], 0.5, atol=1e-3)
    assert np.mean(differing) < 1e-3
    assert len(np.unique(inputs)) > 30


def program(settings: Sounds, folder: Path) -> bytes:
    """Write a small int8 model of these features with its program into a folder; return the model."""
    _, frames, values = settings.kind()
    draft = Draft((1, frames, values, 1), grid=(float(np.float32(scale(settings))), -7))
    model = draft.file(draft.linear(draft.conv(draft.input, 4, stride=(2, 2)), 3))
    extra = initialisers(["a", "b", "c"], *normalisation(settings))
    written(c99.generate(model, extra=extra), folder)
    boards.copy_firmware(folder)
    paths = sounds.write(settings, folder)
    assert [path.name for path in paths] == ["features.h", "features.c", "main.c", "size.c"]
    return model


@pytest.mark.parametrize(
    ("target", "floats"),
    [
        ("host", "soft"),
        ("cortex-m4", "soft"),
        ("cortex-m4", "hard"),
        ("cortex-m7", "hard"),
        ("cortex-m0", "soft"),
        ("cortex-m33", "hard"),
        ("cortex-m55", "hard"),
    ],
)
def test_the_program_hears_samples_and_gives_the_models_scores(target: str, floats: str, tmp_path: Path) -> None:
    if lacking := boards.missing(target):
        pytest.skip(lacking)
    settings = Sounds(features="mfcc12x10", seconds=0.25)
    model = program(settings, tmp_path)
    given = recordings(settings)[[0, 1, 5, 9, 11]]
    given.tofile(tmp_path / "inputs.bin")
    make = ["make", "-s", f"TARGET={target}", f"FLOATS={floats}"]
    said = subprocess.run([*make, "run", "size"], cwd=tmp_path, check=True, capture_output=True, text=True)
    report = json.loads(said.stdout.splitlines()[0])
    levels = real_levels(settings, in_python(settings, given))
    assert np.abs(levels % 1 - 0.5).min() > 2e-4  # no level for rounding to decide
    inputs = np.clip(np.rint(levels), -128, 127).astype(np.int8)
    scores = np.fromfile(tmp_path / "outputs.bin", np.int8).reshape(len(given), -1)
    np.testing.assert_array_equal(scores, reference(model, inputs))
    assert report["inputs"] == len(given)
    assert report["last_class"] == scores[-1].argmax()
    if target != "host":
        # a transform of 1024 points takes 23,000 operations, each one instruction or a call
        assert report["instructions"] // 12 in (range(80_000, 200_000) if floats == "hard" else range(10**6, 10**7))
        text, data, bss = map(int, said.stdout.splitlines()[2].split()[:3])
        facts = sounds.facts(settings)
        constants, samples = facts["features_constants_bytes"], 2 * settings.samples
        assert constants + 1_000 < text < constants + 20_000
        assert data + bss >= samples + facts["features_ram_bytes"]


def test_with_no_recording_the_makefile_makes_one_of_silence(tmp_path: Path) -> None:
    compiler()
    program(Sounds(features="logmel12x8", seconds=0.25), tmp_path)
    subprocess.run(["make", "-s", "run"], cwd=tmp_path, check=True, capture_output=True)
    assert np.fromfile(tmp_path / "inputs.bin", np.int16).tolist() == [0] * 4000


def test_features_of_another_model_do_not_compile(tmp_path: Path) -> None:
    program(Sounds(features="mfcc12x10", seconds=0.25), tmp_path)
    sounds.write(Sounds(features="mfcc12x9", seconds=0.25), tmp_path)
    tried = subprocess.run([compiler(), "-c", "features.c"], cwd=tmp_path, capture_output=True, text=True)
    assert tried.returncode != 0
    assert "these are not the features of this model: its input has another size" in tried.stderr


@pytest.mark.parametrize("standard", ["c++11", "c++17"])
def test_the_header_is_cpp_too(standard: str, tmp_path: Path) -> None:
    if not (found := shutil.which("g++")):
        pytest.skip("g++ is not installed. On Debian: apt install g++")
    (tmp_path / "features.h").write_text(sounds.sources(Sounds())["features.h"])
    (tmp_path / "use.cpp").write_text('#include "features.h"\nint8_t in[FEATURES_COUNT];\n')
    command = [found, f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-c", "use.cpp"]
    subprocess.run(command, cwd=tmp_path, check=True)


def test_tables_of_a_sound_are_counted_and_refused_as_python_does() -> None:
    # half a window of 640 and one, a quarter of 1024 and one, begin and length of 40 bands, 10 by 40 cosines
    assert sounds.facts(Sounds()) == {
        "features": "mfcc49x10",
        "rate": 16000,
        "seconds": 1.0,
        "window_samples": 640,
        "stride_samples": 320,
        "features_constants_bytes": 4 * (321 + 257 + 40 + 400 + len(tables(Sounds()).weights)),
        "features_ram_bytes": 4 * (1024 + 40),
    }
    assert sounds.facts(Sounds(features="raw")) == {"features": "raw", "rate": 16000, "seconds": 1.0}
    with pytest.raises(ValueError, match="40 coefficients are the most"):
        sounds.sources(Sounds(features="mfcc49x41"))
