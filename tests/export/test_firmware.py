"""The program around an exported model: exact on every target, its figures true, and one clear line for what fails."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fedprune.export.c99 import boards

CLIENT = Path(__file__).parents[2] / "clients" / "microcontroller"
BOARDS = [name for name in boards.TARGETS if name != "host"]
HEADER = """\
#include <stdint.h>
#define MODEL_INPUT_BYTES {inputs}
#define MODEL_OUTPUT_CHANNELS {outputs}
#define MODEL_OUTPUT_BYTES {outputs}
int8_t *model_input(void);
const int8_t *model_run(void);
"""
SOURCE = """\
#include <stddef.h>
#include "model.h"
/* Declared here, for a freestanding compiler need not bring string.h. */
void *memcpy(void *restrict, const void *restrict, size_t);
void *memmove(void *, const void *, size_t);
void *memset(void *, int, size_t);
static int8_t input[MODEL_INPUT_BYTES], output[MODEL_OUTPUT_BYTES];
int8_t *model_input(void) {{ return input; }}
{before}
const int8_t *model_run(void)
{{
{body}
    return output;
}}
"""
# Offsets lie in .data, weights in .rodata: startup must have copied the one, the linker placed the other.
SUMS = (
    "static int8_t offsets[4] = {1, -2, 3, -4};\nstatic const int8_t weights[5] = {1, 2, 3, 4, 5};",
    """\
    for (int i = 0; i < 4; i++) {
        int sum = offsets[i];
        for (int j = 0; j < 5; j++)
            sum += weights[j] * input[5 * i + j];
        output[i] = (int8_t)(sum >> 4);
        input[5 * i] = 0;
    }""",
)


def written(folder: Path, body: str, before: str = "", inputs: int = 20, outputs: int = 4) -> Path:
    (folder / "model.h").write_text(HEADER.format(inputs=inputs, outputs=outputs))
    (folder / "model.c").write_text(SOURCE.format(before=before, body=body))
    return folder


def need(target: str) -> None:
    if lacking := boards.missing(target):
        pytest.skip(lacking)


def inputs(count: int, size: int = 20) -> np.ndarray:
    return np.random.default_rng(7).integers(-128, 128, (count, size), np.int8)


@pytest.mark.parametrize("target", boards.TARGETS)
def test_the_same_outputs_on_every_target(target: str, tmp_path: Path) -> None:
    need(target)
    given = inputs(9)
    ran = boards.run(written(tmp_path, SUMS[1], SUMS[0]), target, given)
    sums = given.reshape(9, 4, 5).astype(int) @ np.arange(1, 6) + [1, -2, 3, -4]
    np.testing.assert_array_equal(ran.outputs, (sums >> 4).astype(np.int8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.c", "model.h"]
    assert all((figure is None) == (target == "host") for figure in ran[1:])


@pytest.mark.parametrize("target", BOARDS)
@pytest.mark.parametrize("loops", [1_000, 3_000_000])
def test_the_count_is_that_of_a_loop_of_known_length(loops: int, target: str, tmp_path: Path) -> None:
    need(target)
    loop = f'    __asm__ volatile("ldr r0, ={loops}\\n1: sub r0, #1\\n cmp r0, #0\\n bne 1b" ::: "r0", "cc");'
    ran = boards.run(written(tmp_path, loop), target, inputs(3))
    assert ran.instructions == pytest.approx(3 * loops, abs=10)  # the timer's step is 1.25; the call itself is a few


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m0"])
def test_the_stack_is_as_deep_as_what_lies_on_it(target: str, tmp_path: Path) -> None:
    need(target)
    body = (
        "    volatile int8_t deep[1000];\n    for (int i = 0; i < 1000; i++) deep[i] = 1;\n    output[0] = deep[999];"
    )
    ran = boards.run(written(tmp_path, body), target, inputs(2))
    assert ran.stack_bytes is not None
    assert 1000 <= ran.stack_bytes <= 1100


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m0"])
def test_flash_and_ram_are_those_of_the_model_and_a_startup(target: str, tmp_path: Path) -> None:
    need(target)
    before = (
        f"static const int8_t table[3001] = {{{', '.join(str(i % 100) for i in range(3001))}}};\n"
        "static int8_t scratch[5000], start[40] = {1};"
    )
    body = (
        "    for (int i = 0; i < 5000; i++) scratch[i] += table[i % 3001] + start[i % 40];\n"
        "    output[0] = scratch[(uint8_t)input[0]]; start[1]++;"
    )
    ran = boards.run(written(tmp_path, body, before), target, inputs(1))
    flags = f"-std=c99 -O2 -mcpu={target} -mthumb -mfloat-abi=soft -ffreestanding -c model.c -o model.o".split()
    subprocess.run(["arm-none-eabi-gcc", *flags], cwd=tmp_path, check=True)
    table = subprocess.run(["arm-none-eabi-size", "model.o"], cwd=tmp_path, check=True, capture_output=True, text=True)
    text, data, bss = map(int, table.stdout.splitlines()[1].split()[:3])
    assert ran.flash_bytes is not None
    assert text + data < ran.flash_bytes < text + data + 1000
    assert ran.ram_bytes == pytest.approx(data + bss, abs=16)  # alignment


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m0"])
def test_memory_is_moved_and_set_at_any_alignment(target: str, tmp_path: Path) -> None:
    need(target)
    body = """\
    unsigned kind = (uint8_t)input[0], to = (uint8_t)input[1], from = (uint8_t)input[2], bytes = (uint8_t)input[3];
    memcpy(output, input + 4, MODEL_OUTPUT_BYTES);
    if (kind == 0) memcpy(output + to, input + 4 + from, bytes);
    if (kind == 1) memmove(output + to, output + from, bytes);
    if (kind == 2) memset(output + to, (int)from - 40, bytes);"""
    draw = np.random.default_rng(3)
    given = inputs(240, 100)
    given[:, 0] = np.arange(240) % 3
    given[:, 1:3] = draw.integers(0, 45, (240, 2))
    given[:, 3] = draw.integers(0, 52, 240)
    expected = given[:, 4:].copy()
    for row, before in zip(expected, given, strict=True):
        kind, to, source, size = (int(value) for value in before[:4])
        value = [before[4 + source :][:size], row[source:][:size].copy(), np.int8(source - 40)][kind]
        row[to : to + size] = value
    ran = boards.run(written(tmp_path, body, inputs=100, outputs=96), target, given)
    np.testing.assert_array_equal(ran.outputs, expected)


def test_a_folder_with_the_firmware_runs_by_make_alone(tmp_path: Path) -> None:
    need("host")
    paths = boards.copy_firmware(written(tmp_path, SUMS[1], SUMS[0]))
    assert {"main.c", "Makefile", "link.ld", "startup.c"} <= {path.name for path in paths if path.parent == tmp_path}
    command = ["make", "-s", f"MODEL={tmp_path}", "run"]
    said = subprocess.run(command, cwd=CLIENT, check=True, capture_output=True, text=True).stdout
    report = json.loads(said.splitlines()[-1])
    assert report == {"inputs": 1, "last_class": 0, "instructions": None, "stack_bytes": None}  # one input of zeros
    assert np.fromfile(tmp_path / "outputs.bin", np.int8).tolist() == [0, -1, 0, -1]


def test_what_is_missing_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("cortex-m4")
    boards.copy_firmware(written(tmp_path, ""))
    make = shutil.which("make") or "make"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"apt install make gcc-arm-none-eabi qemu-system-arm$"):
        boards.run(tmp_path, "cortex-m4", inputs(1))
    for target, package in {"host": "gcc", "cortex-m4": "gcc-arm-none-eabi"}.items():
        built = subprocess.run([make, f"TARGET={target}"], cwd=tmp_path, capture_output=True, text=True)
        assert built.returncode != 0
        assert f"is not installed. On Debian: apt install {package}\n" in built.stderr


FAILURES = {
    "model.c:.*error: 'missing_name' undeclared": ("    output[0] = missing_name;", "cortex-m4"),
    "undefined reference to `missing_function'": ("    output[0] = missing_function();", "cortex-m4"),
    "the processor reported a fault": ("    output[0] = *(volatile int8_t *)0x90000000;", "cortex-m3"),
    "not done after 5 s": ('    while (input[0] < 128) __asm__ volatile ("");', "cortex-m4"),
}


@pytest.mark.parametrize("message", FAILURES)
def test_a_model_that_fails_says_how(message: str, tmp_path: Path) -> None:
    body, target = FAILURES[message]
    need(target)
    with pytest.raises(RuntimeError, match=message):
        boards.run(written(tmp_path, body, "int missing_function(void);"), target, inputs(1), limit_seconds=5)


def test_an_m0_faults_where_a_word_lies_at_an_odd_address(tmp_path: Path) -> None:
    need("cortex-m0")
    load = '    int word;\n    __asm__ volatile("ldr %0, [%1]" : "=l"(word) : "l"(input + 1));'
    written(tmp_path, f"{load}\n    output[0] = (int8_t)word;")
    assert boards.run(tmp_path, "cortex-m3", inputs(1)).outputs[0, 0] == inputs(1)[0, 1]
    with pytest.raises(RuntimeError, match="the processor reported a fault"):
        boards.run(tmp_path, "cortex-m0", inputs(1))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    need("host")
    with pytest.raises(ValueError, match="target avr is not known: host, cortex-m4"):
        boards.run(tmp_path, "avr", inputs(1))
    with pytest.raises(ValueError, match=r"model\.c is not there"):
        boards.run(tmp_path, "host", inputs(1))
    written(tmp_path, "")
    for wrong in (inputs(1, 19), inputs(0), inputs(1).astype(np.uint8), inputs(1)[0]):
        with pytest.raises(ValueError, match=r"model\.h takes int8 \(n, 20\)"):
            boards.run(tmp_path, "host", wrong)
