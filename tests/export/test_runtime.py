"""Which runtime a machine has, how long a model takes on it, and what is said where there is none."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from export_nets import Separable, made

from fedprune import graph as graphs
from fedprune.export import litert
from fedprune.export.litert import aarch64 as emulated
from fedprune.export.litert import runtime


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    model, inputs = made(Separable)
    graph = graphs.inference(graphs.trace(model, inputs))
    return [litert.write_float(graph), litert.write_int8(graph, litert.calibrate(graph, inputs.numpy()))]


def test_without_a_runtime_the_error_says_what_to_install(files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    for use in (runtime.interpreter, runtime.latency_ms, litert.quantisation):
        with pytest.raises(RuntimeError, match=r'pip install ai-edge-litert; on a 32-bit .* tflite-runtime "numpy<2"'):
            use(files[0])


@pytest.mark.skipif(np.__version__ < "2", reason="numpy is older, and works")
def test_the_older_runtime_is_refused_beside_a_newer_numpy(files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ai_edge_litert", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    # It imports beside any numpy, so that a module which does nothing stands for it.
    older = ModuleType("tflite_runtime")
    older.interpreter = ModuleType("tflite_runtime.interpreter")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tflite_runtime", older)
    with pytest.raises(RuntimeError, match=rf"numpy {np.__version__}.*numpy<2"):
        runtime.interpreter(files[0])


def test_models_are_measured_in_turns_on_one_input(files: list[bytes]) -> None:
    floats, integers, again = runtime.measured([*files, files[0]], runs=5)
    assert 0 < floats.latency.median_ms <= floats.latency.p90_ms
    assert (floats.output.dtype, integers.output.dtype) == (np.float32, np.int8)
    np.testing.assert_array_equal(floats.output, again.output)
    assert floats.output.shape == litert.quantisation(files[0]).output.shape
    assert runtime.latency_ms(files[1], runs=3).median_ms > 0
    with pytest.raises(ValueError, match="at least 1"):
        runtime.latency_ms(files[0], runs=0)
    with pytest.raises(ValueError, match=r"Flatbuffer|identifier"):
        runtime.latency_ms(b"no model" * 9)


def test_without_an_emulator_the_error_says_what_to_install(
    files: list[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"qemu-aarch64, mmdebstrap.*apt install qemu-user mmdebstrap"):
        emulated.latency_ms(files[0])
    assert not list(tmp_path.iterdir())


def test_a_root_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("mmdebstrap", "qemu-aarch64"):
        (tmp_path / name).write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match="cannot be made: no network"):
        emulated.prepare()
    assert not list((tmp_path / "cache" / "fedprune").iterdir())
