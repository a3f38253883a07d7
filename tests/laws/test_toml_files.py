"""Bounds of TOML from anybody: what is beyond them is refused in a line, at once, before it takes memory."""

import os
from pathlib import Path

import pytest

from fedprune.deployment.devices import read_join
from fedprune.deployment.fleet_folder import FleetError
from fedprune.experiment import ExperimentError, load, toml_files
from fedprune.experiment.toml_files import TomlError

HOSTILE = {
    "lists nested without end": ("a = " + "[" * 100_000, "nest too deep"),
    "tables nested without end": ("a = " + "{a=" * 50_000, "nest too deep"),
    "lists nested a hundred deep": ("a = " + "[" * 100 + "]" * 100, "nest more than 64 deep"),
    "a key of many parts": (".".join(["a"] * 200_000) + " = 1", "a key of more than 64 parts"),
    "a quoted key of many parts": (".".join(["'a'"] * 100_000) + " = 1", "a key of more than 64 parts"),
    "a header of many parts": ("[" + " . ".join(["a"] * 100_000) + "]", "a key of more than 64 parts"),
    "a number of many digits": ("a = " + "9" * 6000, "thousands of digits"),
    "more than a mebibyte": ("#" * (2**20 + 1), "longer than 1,048,576 bytes"),
    "NUL": ("a = 1\x00", "Invalid|Expected"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_beyond_bounds_is_one_line(tmp_path: Path, name: str) -> None:
    text, reason = HOSTILE[name]
    file = tmp_path / "hostile.toml"
    file.write_text(text)
    for read in (load, read_join):
        with pytest.raises((ExperimentError, FleetError), match=rf"hostile\.toml: .*({reason})") as error:
            read(file)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 1100 + len(str(file))


@pytest.mark.parametrize("text", ["a" * 2**20, "a." * 63, "'" * 2**19, 'a = "' + "x." * 2**18 + '"\n', "a " * 2**19])
def test_no_text_makes_the_bounds_themselves_slow(text: str) -> None:
    """Work that grows with the square of these lengths would never end."""
    assert toml_files._LONG_KEY.search(text) is None or "." in text


def test_keys_as_long_as_people_write_them_are_read() -> None:
    assert toml_files.parse('[a.b."c.d"]\ne.f = "1.2.3"') == {"a": {"b": {"c.d": {"e": {"f": "1.2.3"}}}}}


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a plain file"):
            toml_files.read(path)
    with pytest.raises(OSError, match="null byte"):
        toml_files.read(tmp_path / "a\0b")
    with pytest.raises(IsADirectoryError):
        toml_files.read(tmp_path)
    (tmp_path / "latin").write_bytes(b"# \xe9")
    with pytest.raises(TomlError, match="utf-8"):
        toml_files.read(tmp_path / "latin")
