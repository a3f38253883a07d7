"""Folders of sound: what becomes of each kind of file, and a line for each that cannot be used."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from own_folders import SOUNDS, problem, write_wav

from fedprune.data import DataError
from fedprune.data.own import read, shape_of
from fedprune.data.own.resampling import resampled
from fedprune.data.own.sounds import examples
from fedprune.experiment.own_data import Sounds

RESAMPLED = msgspec.structs.replace(SOUNDS, sounds=Sounds(seconds=0.01, rate=1000, features="raw", resample=True))


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_integers_of_every_width_are_the_same_sound(tmp_path: Path, width: int) -> None:
    top = 2 ** (8 * width - 1)
    # minus one, minus a half, 0, a half, as near to one as it gets
    write_wav(tmp_path / "hello" / "a.wav", np.array([-top, -top // 2, 0, top // 2, top - 1]), width=width)
    recorded = read(SOUNDS, tmp_path)
    assert recorded.inputs.dtype == np.float32
    assert recorded.inputs.shape == (1, *shape_of(SOUNDS)) == (1, 1, 10)
    assert recorded.inputs[0, 0, :4].tolist() == [-1, -0.5, 0, 0.5]
    assert 1 - 2.0 ** (1 - 8 * width) - 1e-6 < recorded.inputs[0, 0, 4] < 1
    assert not recorded.inputs[0, 0, 5:].any()
    assert (recorded.labels, recorded.recordings, recorded.problems) == (("hello",), ("hello/a.wav",), ())


def test_channels_are_averaged(tmp_path: Path) -> None:
    write_wav(tmp_path / "hello" / "a.wav", np.array([[8192, 16384, 0], [-8192, -8192, -8192]]))
    assert read(SOUNDS, tmp_path).inputs[0, 0, :3].tolist() == [0.25, -0.25, 0]


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (4, 1), (10, 1), (14, 1), (15, 2), (20, 2), (24, 2), (25, 3)])
def test_a_long_recording_gives_examples_one_after_the_other(tmp_path: Path, samples: int, count: int) -> None:
    write_wav(tmp_path / "stop" / "a.wav", np.arange(1, samples + 1))
    recorded = read(SOUNDS, tmp_path)
    assert len(recorded) == count
    assert recorded.recordings == ("stop/a.wav",) * count
    heard = np.rint(recorded.inputs.reshape(-1) * 2**15)
    kept = min(samples, 10 * count)
    assert heard[:kept].tolist() == list(range(1, kept + 1))
    assert not heard[kept:].any()


def test_a_short_example_alone_counts_and_half_a_rest_does() -> None:
    assert examples(np.ones(1, np.float32), 5).tolist() == [[1, 0, 0, 0, 0]]
    assert len(examples(np.ones(7, np.float32), 5)) == 1
    assert len(examples(np.ones(8, np.float32), 5)) == 2


def test_another_rate_is_left_out_with_the_key_that_resamples(tmp_path: Path) -> None:
    write_wav(tmp_path / "hello" / "a.wav", np.arange(20), rate=2000)
    write_wav(tmp_path / "hello" / "b.wav", np.arange(10))
    assert problem(SOUNDS, tmp_path) == (
        "hello/a.wav: has 2000 samples a second, not 1000; set sounds.resample = true, or convert it"
    )
    assert len(read(SOUNDS, tmp_path)) == 1
    assert len(read(RESAMPLED, tmp_path)) == 2
    assert read(RESAMPLED, tmp_path).problems == ()


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (48000, 16000), (8000, 16000), (11025, 16000)])
def test_a_tone_is_the_same_tone_at_another_rate(rate: int, wanted: int) -> None:
    def tone(at: int) -> np.ndarray:
        return np.sin(2 * np.pi * 440 * np.arange(9 * at + at // 5 * 2) / at).astype(np.float32)

    found = resampled(tone(rate), rate, wanted)
    assert len(found) == len(tone(wanted))
    inner = slice(wanted // 2, -wanted // 2)  # the tone begins and ends with a jump
    assert np.abs(found - tone(wanted))[inner].max() < 2e-3


def test_what_no_lower_rate_can_hold_is_cut_off() -> None:
    high = np.sin(2 * np.pi * 9000 * np.arange(44100) / 44100).astype(np.float32)
    assert np.abs(resampled(high, 44100, 16000)[2000:-2000]).max() < 0.01


def test_capital_suffixes_and_what_systems_leave_behind(tmp_path: Path) -> None:
    write_wav(tmp_path / "hello" / "A.WAV", np.arange(10))
    for junk in ("__MACOSX/hello/._A.WAV", "hello/._A.WAV", "hello/.DS_Store", "Thumbs.db", ".hidden/x.wav"):
        (tmp_path / junk).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / junk).write_bytes(b"\0\5\x16\7")
    recorded = read(SOUNDS, tmp_path)
    assert recorded.recordings == ("hello/A.WAV",)
    assert recorded.problems == ()


BAD = {
    "empty": (b"", r"hello/a.wav: no sound (the file is empty)"),
    "text": (b"once upon a time", "hello/a.wav: no sound (file does not start with RIFF id)"),
    "cut in its header": (b"RIFF\x24\0\0\0WAVEfmt ", "hello/a.wav: no sound ("),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_sound_is_a_line_and_others_go_on(tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    write_wav(tmp_path / "hello" / "b.wav", np.arange(10))
    (tmp_path / "hello" / "a.wav").write_bytes(content)
    assert problem(SOUNDS, tmp_path).startswith(said)
    assert read(SOUNDS, tmp_path).recordings == ("hello/b.wav",)


def test_a_recording_that_was_cut_off_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    write_wav(tmp_path / "hello" / "a.wav", np.arange(1, 31))
    whole = (tmp_path / "hello" / "a.wav").read_bytes()
    (tmp_path / "hello" / "a.wav").write_bytes(whole[: 44 + 2 * 20 + 1])  # and half a sample
    assert read(SOUNDS, tmp_path).inputs.shape == (2, 1, 10)
    (tmp_path / "hello" / "a.wav").write_bytes(whole[:44])
    assert read(SOUNDS, tmp_path).problems[0] == "hello/a.wav: holds no samples"


def test_a_file_without_a_folder_and_one_of_another_kind(tmp_path: Path) -> None:
    write_wav(tmp_path / "hello" / "b.wav", np.arange(10))
    write_wav(tmp_path / "a.wav", np.arange(10))
    (tmp_path / "hello" / "notes.txt").write_text("of Monday")
    assert read(SOUNDS, tmp_path).problems == (
        "a.wav: lies in no folder of a label; put it into one, such as hello/a.wav",
        "hello/notes.txt: no sound; expected a folder a label with .wav files, such as hello/one.wav",
    )


def test_without_soundfile_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedprune.data.own.sounds.can_read_all", lambda: False)
    write_wav(tmp_path / "hello" / "b.wav", np.arange(10))
    (tmp_path / "hello" / "a.flac").write_bytes(b"fLaC")
    assert "pip install 'fedprune[sounds]'" in problem(SOUNDS, tmp_path)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [("flac", "PCM_16", 0), ("ogg", "VORBIS", 0.2), ("wav", "FLOAT", 0), ("wav", "PCM_24", 0), ("aiff", "PCM_16", 0)],
)
def test_other_formats_by_soundfile(tmp_path: Path, suffix: str, subtype: str, tolerance: float) -> None:
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "hello").mkdir()
    wanted = np.sin(np.arange(8000) / 30).astype(np.float32) / 2
    wanted = np.rint(wanted * 2**15).astype(np.float32) / 2**15
    kind = "WAVEX" if subtype == "PCM_24" else None
    soundfile.write(tmp_path / "hello" / f"a.{suffix}", wanted, 8000, subtype=subtype, format=kind)
    settings = msgspec.structs.replace(SOUNDS, sounds=Sounds(seconds=1, rate=8000, features="raw"))
    recorded = read(settings, tmp_path)
    assert recorded.problems == ()
    assert np.abs(recorded.inputs[0, 0] - wanted).max() <= tolerance


def test_float_samples_beyond_one_are_clipped_and_nan_is_refused(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "hello").mkdir()
    soundfile.write(tmp_path / "hello" / "a.wav", np.array([3.0, -3.0]), 1000, subtype="FLOAT")
    soundfile.write(tmp_path / "hello" / "b.wav", np.array([np.nan, 0.0]), 1000, subtype="FLOAT")
    assert problem(SOUNDS, tmp_path) == "hello/b.wav: holds samples that are no finite numbers"
    loud = read(SOUNDS, tmp_path).inputs[0, 0]
    assert loud[1] == -1
    assert 0.999 < loud[0] < 1


def test_a_file_that_vanishes_after_it_was_listed_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedprune.data.own import sounds

    write_wav(tmp_path / "hello" / "a.wav", np.arange(10))
    write_wav(tmp_path / "hello" / "b.wav", np.arange(10))
    decode = sounds.decoded

    def decoded(path: Path) -> tuple[np.ndarray, int]:
        (tmp_path / "hello" / "b.wav").unlink(missing_ok=True)
        return decode(path)

    monkeypatch.setattr(sounds, "decoded", decoded)
    recorded = read(SOUNDS, tmp_path)
    assert recorded.recordings == ("hello/a.wav",)
    assert recorded.problems == ("hello/b.wav: is gone",)


def test_features_that_are_none_are_said_once(tmp_path: Path) -> None:
    write_wav(tmp_path / "hello" / "a.wav", np.arange(10))
    settings = msgspec.structs.replace(SOUNDS, sounds=Sounds(features="mfccs"))
    with pytest.raises(DataError, match=r"data\.sounds\.features: 'mfccs' is none of mfcc"):
        read(settings, tmp_path)
