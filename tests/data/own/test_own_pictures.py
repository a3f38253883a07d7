"""Folders of pictures: every kind of file ends as bytes of one size and number of channels."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from own_folders import PICTURES, problem, write_picture

from fedprune.data import DataError
from fedprune.data.own import read, shape_of
from fedprune.experiment import Data
from fedprune.experiment.own_data import Pictures

Image = pytest.importorskip("PIL.Image")
GREY = msgspec.structs.replace(PICTURES, pictures=Pictures(size=(4, 6), channels=1))
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)


def only(settings: Data, folder: Path) -> np.ndarray:
    """The one picture, (H, W, C)."""
    recorded = read(settings, folder)
    assert recorded.problems == ()
    assert recorded.inputs.dtype == np.uint8
    assert recorded.inputs.shape == (1, *(shape_of(settings) or ()))
    return recorded.inputs[0].transpose(1, 2, 0)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "PNG", "ppm"])
def test_colours_come_through_untouched(tmp_path: Path, suffix: str) -> None:
    write_picture(tmp_path / "cat" / f"a.{suffix}", COLOURS)
    assert np.array_equal(only(PICTURES, tmp_path), COLOURS)


def test_a_jpeg_in_capitals_of_one_colour(tmp_path: Path) -> None:
    write_picture(tmp_path / "cat" / "A.JPG", np.full((40, 60, 3), (200, 100, 50), np.uint8), format="JPEG")
    assert np.abs(only(PICTURES, tmp_path).astype(int) - (200, 100, 50)).max() <= 2


def test_greys_become_colours_and_colours_greys(tmp_path: Path) -> None:
    write_picture(tmp_path / "cat" / "a.png", COLOURS[:, :, 0])
    assert np.array_equal(only(PICTURES, tmp_path), np.repeat(COLOURS[:, :, :1], 3, 2))
    write_picture(tmp_path / "cat" / "a.png", COLOURS)
    # ITU-R 601-2: 0.299 R + 0.587 G + 0.114 B
    assert np.abs(only(GREY, tmp_path)[:, :, 0] - COLOURS @ [0.299, 0.587, 0.114]).max() <= 1


def test_greys_of_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    deep = np.array([[0, 128, 129, 257, 65535, 32768]] * 4, np.uint16)
    write_picture(tmp_path / "cat" / "a.png", deep)
    # 65535 / 255 = 257 a step: 128 rounds to 0, 129 to 1, 32768 to 127.5 + 1/514
    assert only(GREY, tmp_path)[0, :, 0].tolist() == [0, 0, 1, 1, 255, 128]
    assert only(PICTURES, tmp_path)[0, :, 2].tolist() == [0, 0, 1, 1, 255, 128]


def test_transparency_is_black_and_palettes_are_looked_up(tmp_path: Path) -> None:
    alpha = np.dstack([COLOURS, np.repeat([[0, 0, 0, 255, 255, 255]], 4, 0).astype(np.uint8)])
    write_picture(tmp_path / "cat" / "a.png", alpha)
    found = only(PICTURES, tmp_path)
    assert not found[:, :3].any()
    assert np.array_equal(found[:, 3:], COLOURS[:, 3:])
    palette = Image.fromarray((COLOURS[:, :, 0] % 2).astype(np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.save(tmp_path / "cat" / "a.png", transparency=1)
    wanted = np.where(COLOURS[:, :, :1] % 2 == 0, (10, 20, 30), 0)
    assert np.array_equal(only(PICTURES, tmp_path), wanted)


def test_inks_become_colours(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.fromarray(np.full((4, 6, 4), (0, 255, 255, 0), np.uint8), mode="CMYK").save(tmp_path / "cat" / "a.tiff")
    assert np.array_equal(only(PICTURES, tmp_path), np.broadcast_to((255, 0, 0), (4, 6, 3)))


def test_a_camera_held_upright_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn it by a quarter, clockwise
    write_picture(tmp_path / "cat" / "a.png", np.ascontiguousarray(np.rot90(COLOURS)), exif=exif)
    assert np.array_equal(only(PICTURES, tmp_path), COLOURS)


def test_the_first_frame_of_what_moves(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 6), shade, np.uint8)) for shade in (40, 200)]
    (tmp_path / "cat").mkdir()
    frames[0].save(tmp_path / "cat" / "a.gif", save_all=True, append_images=frames[1:])
    assert np.array_equal(only(GREY, tmp_path)[:, :, 0], np.full((4, 6), 40))


def test_shrinking_averages_and_does_not_alias(tmp_path: Path) -> None:
    stripes = np.zeros((64, 96), np.uint8)
    stripes[:, ::2] = 255
    write_picture(tmp_path / "cat" / "a.png", stripes)
    assert np.abs(only(GREY, tmp_path).astype(int) - 127).max() <= 4
    write_picture(tmp_path / "cat" / "a.png", np.full((1, 1, 3), 77, np.uint8))
    assert np.array_equal(only(PICTURES, tmp_path), np.full((4, 6, 3), 77))


def test_a_large_jpeg_is_about_what_it_is_at_full_size(tmp_path: Path) -> None:
    shades = np.add.outer(np.arange(800), np.arange(1200)) // 8
    write_picture(tmp_path / "cat" / "a.jpg", shades.astype(np.uint8), quality=95)
    wanted = shades.reshape(4, 200, 6, 200).mean((1, 3))
    assert np.abs(only(GREY, tmp_path)[:, :, 0] - wanted).max() < 4


def test_damaged_files_are_lines_and_others_go_on(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.png", "good.png"):
        write_picture(tmp_path / "cat" / name, RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    for name in ("a.png", "b.jpg"):
        whole = (tmp_path / "cat" / name).read_bytes()
        (tmp_path / "cat" / name).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cat" / "c.png").write_bytes(b"no picture")
    (tmp_path / "cat" / "d.heic").write_bytes(b"a telephone's")
    recorded = read(PICTURES, tmp_path)
    assert recorded.recordings == ("cat/good.png",)
    begins = ["cat/a.png: no picture (", "cat/b.jpg: no picture (", "cat/c.png: no picture (cannot identify",
              "cat/d.heic: no picture; expected a folder a label with .jpg"]  # fmt: skip
    assert [said.startswith(begin) for said, begin in zip(recorded.problems, begins, strict=True)] == [True] * 4
    assert not any(str(tmp_path) in said for said in recorded.problems)


def test_a_bomb_is_refused_and_says_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    write_picture(tmp_path / "cat" / "a.png", np.zeros((11, 11), np.uint8))
    write_picture(tmp_path / "cat" / "b.png", np.zeros((50, 50), np.uint8))
    write_picture(tmp_path / "cat" / "c.png", np.zeros((4, 6), np.uint8))
    said = "a picture of more than 100 pixels; make it smaller"
    assert read(PICTURES, tmp_path).problems == (f"cat/a.png: {said}", f"cat/b.png: {said}")


def test_a_picture_that_would_take_a_devices_memory_is_refused_where_it_cannot_be_read_smaller(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    large = Image.new("L", (5800, 5800), 77)
    for name in ("a.png", "b.jpg"):
        large.save(tmp_path / "cat" / name)
    recorded = read(PICTURES, tmp_path)
    assert recorded.problems == ("cat/a.png: a picture of more than 33,554,432 pixels; make it smaller",)
    assert recorded.recordings == ("cat/b.jpg",)
    assert (recorded.inputs == 77).all()


def test_a_shape_that_the_size_contradicts(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(PICTURES, shape=(3, 8, 8))
    with pytest.raises(DataError, match=r"data\.shape: \[3, 8, 8\], but data\.pictures gives \[3, 4, 6\]"):
        read(settings, tmp_path)


def test_an_empty_folder_is_no_error(tmp_path: Path) -> None:
    assert problem(PICTURES, tmp_path).startswith("nothing that can be used; expected a folder a label with .jpg")
    assert read(PICTURES, tmp_path).inputs.shape == (0, 3, 4, 6)
