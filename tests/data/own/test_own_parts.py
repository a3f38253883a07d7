"""Parts by a recording's name alone, and what is kept of a folder between two processes."""

import os
import shutil
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_folders import ARRAYS, PICTURES, SOUNDS, TABLES, write_arrays, write_table, write_wav

from fedprune.data import DataError
from fedprune.data.own import Recorded, counts, part_of, parts, read, shape_of, stamp
from fedprune.data.parts import PARTS, DeviceData
from fedprune.experiment import Data

NAMES = [f"hello/{index}.wav" for index in range(4000)]
FRACTIONS = st.floats(0, 0.99)


@given(st.text(), FRACTIONS, FRACTIONS)
def test_a_name_has_one_part(name: str, test: float, development: float) -> None:
    assert part_of(name, test, development) in PARTS
    assert part_of(name, 0, 0) == "train"
    assert part_of(name, 0, development) != "test"
    assert part_of(name, test, 0) != "development"


@given(FRACTIONS, FRACTIONS, FRACTIONS)
def test_parts_are_as_large_as_they_should_be(test: float, development: float, greater: float) -> None:
    found = Counter(part_of(name, test, development) for name in NAMES)
    expected = {"test": test, "development": (1 - test) * development, "train": (1 - test) * (1 - development)}
    for part, share in expected.items():
        assert abs(found[part] / len(NAMES) - share) < 6 * (share * (1 - share) / len(NAMES)) ** 0.5 + 1e-9
    # a greater test fraction takes into the test part, and moves nothing else; so does a greater development's
    for name in NAMES[:200]:
        before, after = part_of(name, test, development), part_of(name, max(test, greater), development)
        assert after in (before, "test")
        after = part_of(name, test, max(development, greater))
        assert after == before or (before, after) == ("train", "development")


def test_parts_worked_by_hand() -> None:
    # sha256sum of hello/a.wav: 38bd0d80a9cc4630 ebab07b1d4cf8d3b ...; over 2 ** 64 these are 0.22163 and 0.92058
    assert part_of("hello/a.wav", 0.22164, 0) == "test"
    assert part_of("hello/a.wav", 0.22162, 0.92059) == "development"
    assert part_of("hello/a.wav", 0.22162, 0.92057) == "train"


def test_a_name_is_the_same_on_a_mac() -> None:
    composed, apart = "caf\u00e9.wav", "cafe\u0301.wav"
    assert all(part_of(composed, t, d) == part_of(apart, t, d) for t in (0.2, 0.5, 0.8) for d in (0.2, 0.5, 0.8))


def test_a_folder_as_parts(tmp_path: Path) -> None:
    for index in range(60):
        write_wav(tmp_path / ("hello", "stop", "noise")[index % 3] / f"{index}.wav", np.full(20, index + 1))
    recorded = read(SOUNDS, tmp_path)
    device, unknown = parts(SOUNDS, recorded, ["stop", "hello"])
    assert unknown == {"noise": 40}
    held = [device.train, device.development, device.test]
    assert sum(map(len, held)) == 80
    for part, examples in zip(PARTS, held, strict=True):
        for inputs, label in zip(examples.inputs, examples.labels, strict=True):
            index = round(float(inputs[0, 0]) * 2**15) - 1
            name = ("hello", "stop")[index % 3]
            assert label == ["stop", "hello"].index(name)
            assert part == part_of(f"{name}/{index}.wav", SOUNDS.test, SOUNDS.development)
    said = counts(SOUNDS, recorded)
    assert list(said) == list(PARTS)
    assert sum(sum(labels.values()) for labels in said.values()) == 120
    assert said["test"]["hello"] == int((device.test.labels == 1).sum())

    # half of the files go, a new one comes: the others stay where they are
    def tested(device: DeviceData) -> set[int]:
        return {round(float(one[0, 0]) * 2**15) - 1 for one in device.test.inputs}

    before, gone = tested(device), {int(path.stem) for path in sorted((tmp_path / "stop").iterdir())[::2]}
    for path in sorted((tmp_path / "stop").iterdir())[::2]:
        path.unlink()
    write_wav(tmp_path / "hello" / "00.wav", np.full(10, 999))
    after, _ = parts(SOUNDS, read(SOUNDS, tmp_path), ["stop", "hello"])
    assert tested(after) - {998} == before - gone


@pytest.mark.parametrize("settings", [SOUNDS, PICTURES, TABLES, ARRAYS, msgspec.structs.replace(ARRAYS, shape=(2, 3))])
def test_no_example_at_all(tmp_path: Path, settings: Data) -> None:
    recorded = read(settings, tmp_path)
    assert recorded.inputs.shape == (0, *(shape_of(settings) or settings.shape))
    device, unknown = parts(settings, recorded, ["a"])
    assert unknown == {}
    assert len(device.train) == len(device.development) == len(device.test) == 0
    assert device.train.inputs.shape == recorded.inputs.shape
    assert len(recorded.problems) == 1
    again = read(settings, tmp_path)
    assert again.inputs.shape == recorded.inputs.shape


def test_nothing_that_is_known(tmp_path: Path) -> None:
    write_wav(tmp_path / "hello" / "a.wav", np.arange(10))
    device, unknown = parts(SOUNDS, read(SOUNDS, tmp_path), [])
    assert (len(device.train), unknown) == (0, {"hello": 1})


def test_folders_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: cannot be read \(No such file or directory\); give the folder"):
        read(SOUNDS, tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file: cannot be read \(Not a directory\)"):
        stamp(SOUNDS, tmp_path / "file")
    with pytest.raises(DataError, match=r"data\.name: 'digits' is no layout of own recordings: choose one of sounds"):
        read(Data("digits", "own"), tmp_path)


def test_links_pipes_and_names_that_are_no_text(tmp_path: Path) -> None:
    write_wav(tmp_path / "elsewhere" / "hello" / "a.wav", np.arange(10))
    folder = tmp_path / "data"
    write_wav(folder / "stop" / "b.wav", np.arange(10))
    (folder / "hello").symlink_to(tmp_path / "elsewhere" / "hello")
    (folder / "stop" / "c.wav").symlink_to(tmp_path / "elsewhere" / "hello" / "a.wav")
    (folder / "stop" / "d.wav").symlink_to(tmp_path / "nowhere")
    (folder / "stop" / "again").symlink_to(folder)
    os.mkfifo(folder / "stop" / "e.wav")
    (folder / os.fsdecode(b"caf\xe9")).mkdir()
    shutil.copy(folder / "stop" / "b.wav", folder / os.fsdecode(b"caf\xe9") / "f.wav")
    recorded = read(SOUNDS, folder)
    assert recorded.recordings == ("stop/b.wav", "stop/c.wav")
    assert recorded.problems == (
        "hello: a link to a folder is not followed; put the folder here",
        "stop/again: a link to a folder is not followed; put the folder here",
        "stop/d.wav: cannot be read (No such file or directory)",
        "stop/e.wav: not a plain file",
        "caf\\udce9/f.wav: its folder's name is not UTF-8; rename it",
    )


def test_a_stamp_changes_with_files_and_with_what_reads_them(tmp_path: Path) -> None:
    write_wav(tmp_path / "hello" / "a.wav", np.arange(10))
    first = stamp(SOUNDS, tmp_path)
    assert first == stamp(SOUNDS, tmp_path)
    assert first == stamp(msgspec.structs.replace(SOUNDS, test=0.5, classes=("hello",)), tmp_path)
    seen = {first, stamp(PICTURES, tmp_path)}
    assert SOUNDS.sounds is not None
    seen.add(stamp(msgspec.structs.replace(SOUNDS, sounds=msgspec.structs.replace(SOUNDS.sounds, rate=2000)), tmp_path))
    os.utime(tmp_path / "hello" / "a.wav", ns=(1, 1))
    seen.add(stamp(SOUNDS, tmp_path))
    (tmp_path / "hello" / "a.wav").rename(tmp_path / "hello" / "b.wav")
    seen.add(stamp(SOUNDS, tmp_path))
    write_wav(tmp_path / "hello" / "b.wav", np.arange(11))
    os.utime(tmp_path / "hello" / "b.wav", ns=(1, 1))
    seen.add(stamp(SOUNDS, tmp_path))
    assert len(seen) == 6


def same(one: Recorded, other: Recorded) -> bool:
    return np.array_equal(one.inputs, other.inputs) and (one.labels, one.recordings, one.problems, one.features) == (
        other.labels, other.recordings, other.problems, other.features
    )  # fmt: skip


def test_a_folder_that_did_not_change_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "a.csv", [(1, 2, "s")] * 7)
    (tmp_path / "b.csv").write_text("x")
    first = read(TABLES, tmp_path)
    monkeypatch.setattr("fedprune.data.own.table_files.columns", None)
    again = read(TABLES, tmp_path)
    assert same(first, again)
    assert isinstance(again.inputs, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        again.inputs[0] = 0
    monkeypatch.undo()


def test_what_was_kept_of_an_older_folder_goes(tmp_path: Path, own_cache: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        write_arrays(folder / "a.npz", inputs=np.ones((2, 1)), labels=[0, 1])
        read(ARRAYS, folder)
    kept = set(own_cache.iterdir())
    assert len(kept) == 4
    assert all(path.stat().st_mode & 0o77 == 0 for path in kept)
    write_arrays(one / "b.npz", inputs=np.ones((2, 1)), labels=[0, 1])
    assert len(read(ARRAYS, one)) == 4
    now = set(own_cache.iterdir())
    assert len(now) == 4
    assert len(now & kept) == 2


@pytest.mark.parametrize("suffix", [".npy", ".json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "junk", "another's"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, own_cache: Path, suffix: str, damage: str) -> None:
    write_arrays(tmp_path / "a.npz", inputs=np.ones((5, 1)), labels=[0, 1, 1, 0, 2])
    first = read(ARRAYS, tmp_path)
    (path,) = own_cache.glob(f"*{suffix}")
    content = path.read_bytes()
    path.unlink()  # what was read maps the file itself
    if damage == "gone":
        pass
    elif damage == "another's" and suffix == ".npy":
        np.save(path, np.ones((4, 1), np.float32))
    else:
        path.write_bytes({"cut": content[:-3], "junk": b"junk", "another's": content.replace(b'"0",', b"")}[damage])
    assert same(read(ARRAYS, tmp_path), first)
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_arrays(tmp_path / "data" / "a.npz", inputs=np.ones((5, 1)), labels=[0, 1, 1, 0, 2])
    assert len(read(ARRAYS, tmp_path / "data")) == 5
