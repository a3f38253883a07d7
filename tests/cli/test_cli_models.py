"""Files of models at the command line: inspected, measured, exported as C, or refused with nothing written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedprune.export.c99 import boards

Fedprune = Callable[..., tuple[int, str, str]]


def test_a_run_is_inspected(fedprune: Fedprune, finished: Path) -> None:
    code, out, err = fedprune("inspect", str(finished))
    assert code == 0, err
    assert "CONV_2D" in out
    size = (finished / "model.tflite").stat().st_size
    assert f"model.tflite: {size:,} bytes = " in out


def test_a_run_is_timed_here(fedprune: Fedprune, finished: Path) -> None:
    code, out, err = fedprune("bench", str(finished))
    assert code == 0, err
    assert "model.tflite" in out
    assert "model_float.tflite" in out


@pytest.mark.skipif(boards.missing("cortex-m4") is not None, reason=str(boards.missing("cortex-m4")))
def test_a_run_is_measured_on_a_chip_smaller_than_the_stock_model(fedprune: Fedprune, finished: Path) -> None:
    code, out, err = fedprune("bench", str(finished / "model.tflite"), "--on", "cortex-m4")
    assert code == 0, err
    rows = {
        line[:14].strip(): [int(n.replace(",", "")) for n in line[14:].split()[:2]] for line in out.splitlines()[1:4]
    }
    assert rows["C99, smallest"][1] < rows["TFLM"][1]


@pytest.mark.skipif(boards.missing("cortex-m4") is not None, reason=str(boards.missing("cortex-m4")))
def test_a_file_is_measured_beside_the_stock_runtime(fedprune: Fedprune, finished: Path, world: Path) -> None:
    (world / "theirs.tflite").write_bytes((finished / "model.tflite").read_bytes())
    code, out, err = fedprune("bench", str(world / "theirs.tflite"), "--on", "cortex-m4", "--against", "tflm")
    if code == 2 and "no TensorFlow Lite Micro" in err:
        pytest.skip(err)
    assert code == 0, err
    rows = {line[:14].strip(): line[14:] for line in out.splitlines()}
    ours, *_, theirs = (int(each.replace(",", "")) for each in rows["RAM, bytes"].split())
    assert ours < theirs
    assert "20 of 20" in rows["inputs alike"]
    assert "not measured" in rows["instructions"]


def test_the_stock_runtime_is_no_peer_on_this_machine(fedprune: Fedprune, finished: Path) -> None:
    code, out, err = fedprune("bench", str(finished), "--against", "tflm")
    assert (code, out) == (2, "")
    assert "--on cortex-m4" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.skipif(boards.missing("cortex-m4") is not None, reason=str(boards.missing("cortex-m4")))
def test_a_file_that_the_stock_runtime_ends_over_is_one_line(
    fedprune: Fedprune, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(model: bytes) -> int:
        raise RuntimeError("TensorFlow Lite Micro: Failed to get registration from op code 17")

    monkeypatch.setattr("fedprune.export.tflm.arena_bytes", lacking)
    code, out, err = fedprune("bench", str(finished / "model.tflite"), "--on", "cortex-m4", "--against", "tflm")
    assert (code, out) == (2, "")
    assert "Failed to get registration" in err
    assert len(err.strip().splitlines()) == 1


def test_somebody_elses_file_becomes_c(fedprune: Fedprune, finished: Path, world: Path) -> None:
    (world / "theirs.tflite").write_bytes((finished / "model.tflite").read_bytes())
    code, out, err = fedprune("export", str(world / "theirs.tflite"), "--to", "microcontroller")
    assert code == 0, err
    folder = world / "theirs_microcontroller"
    assert {"model.c", "model.h", "main.c", "Makefile", "model.tflite"} <= {path.name for path in folder.iterdir()}
    assert all(path.name in out for path in folder.iterdir())
    if lacking := boards.missing("host"):
        pytest.skip(lacking)
    size = int((folder / "model.h").read_text().split("MODEL_INPUT_BYTES ")[1].split()[0])
    ran = boards.run(folder, "host", np.zeros((1, size), np.int8))
    assert ran.outputs.shape == (1, 3)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: content[: len(content) // 2], "cut short or damaged"),
        (lambda content: b"not a model", "no .tflite file"),
        (lambda content: b"", "no .tflite file"),
    ],
    ids=["half of it", "something else", "empty"],
)
@pytest.mark.parametrize("words", [("inspect",), ("export", "--to", "microcontroller"), ("bench", "--on", "cortex-m4")])
def test_a_bad_file_is_one_line_and_nothing_is_written(
    fedprune: Fedprune,
    finished: Path,
    world: Path,
    damage: Callable[[bytes], bytes],
    why: str,
    words: tuple[str, ...],
) -> None:
    (world / "bad.tflite").write_bytes(damage((finished / "model.tflite").read_bytes()))
    code, out, err = fedprune(words[0], str(world / "bad.tflite"), *words[1:])
    if words[0] == "bench" and boards.missing("cortex-m4") and "apt install" in err:
        pytest.skip(err)
    assert (code, out) == (2, "")
    assert "bad.tflite: " in err
    assert why in err
    assert len(err.strip().splitlines()) == 1
    assert not (world / "bad_microcontroller").exists()


def test_a_float_model_is_refused_by_name(fedprune: Fedprune, finished: Path, world: Path) -> None:
    code, _, err = fedprune("export", str(finished / "model_float.tflite"), "--to", "microcontroller")
    assert code == 2
    assert "float" in err
    assert not (finished / "model_float_microcontroller").exists()


def test_what_is_not_there_is_named(fedprune: Fedprune, world: Path) -> None:
    for words in (("inspect", "nowhere"), ("bench", "nowhere.tflite"), ("export", "nowhere", "--to", "litert")):
        code, _, err = fedprune(*words)
        assert code == 2, words
        assert words[1] in err


def test_a_file_without_end_is_not_read(fedprune: Fedprune) -> None:
    for words in (("inspect",), ("bench",), ("export", "--to", "microcontroller")):
        code, out, err = fedprune(words[0], "/dev/zero", *words[1:])
        assert (code, out) == (2, "")
        assert err.startswith("/dev/zero: ")
        assert len(err.strip().splitlines()) == 1


def test_a_file_larger_than_any_model_is_not_read(fedprune: Fedprune, tmp_path: Path) -> None:
    with (tmp_path / "large.tflite").open("wb") as file:
        file.truncate(2**31)
    for words in (("inspect",), ("bench",), ("export", "--to", "microcontroller")):
        code, _, err = fedprune(words[0], "large.tflite", *words[1:])
        assert code == 2
        assert err == "large.tflite: is no .tflite file: its 2,147,483,648 bytes are more than 2,147,483,647\n"


def test_a_model_over_which_the_runtime_ends_is_one_line(
    fedprune: Fedprune, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs.tflite").write_bytes((finished / "model.tflite").read_bytes())
    monkeypatch.setattr("fedprune.export.apart.LIMIT_S", 1e-4)  # the system ends it, as a crash would
    code, _, err = fedprune("bench", "theirs.tflite")
    assert (code, err) == (2, "theirs.tflite: LiteRT took more than 0.0001 s on this model\n")


def test_a_chip_that_cannot_be_measured_leaves_what_is_written(
    fedprune: Fedprune, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no(*_: object) -> None:
        raise RuntimeError("no chip\nhere")

    (tmp_path / "theirs.tflite").write_bytes((finished / "model.tflite").read_bytes())
    monkeypatch.setattr("fedprune.export.c99.boards.missing", lambda target: None)
    monkeypatch.setattr("fedprune.export.chip.benching.on_chip", no)
    code, _, err = fedprune("export", "theirs.tflite", "--to", "microcontroller")
    assert (code, err) == (2, "theirs_microcontroller is written, but was not measured: no chip here\n")
    assert (tmp_path / "theirs_microcontroller" / "Makefile").is_file()
