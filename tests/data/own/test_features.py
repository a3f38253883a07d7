"""Features of sounds: a frame by a Fourier sum of its own, laws of silence, gain and shift, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedprune.data.own.features import FLOOR, features, tables
from fedprune.experiment.own_data import Sounds

MFCC, LOGMEL, RAW = (Sounds(features=each) for each in ("mfcc49x10", "logmel49x40", "raw"))


def noise(settings: Sounds, count: int = 1, seed: int = 0, size: float = 0.1) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(0, size, (count, settings.samples))
    return np.clip(drawn, -1, 32767 / 32768).astype(np.float32)


def test_a_frame_is_that_of_a_direct_fourier_sum() -> None:
    # 8 frames of 50 ms at 400 Hz: stride 180 // 9 = 20, window 40, points 64, bins of 6.25 Hz
    settings = Sounds(seconds=0.45, rate=400, features="mfcc8x3")
    samples = noise(settings)
    begin, levels = 3 * 20, []
    windowed = [math.sin(math.pi * n / 40) ** 2 / 10 * float(samples[0, begin + n]) for n in range(40)]
    powers = []
    for k in range(33):
        turns = [2 * math.pi * k * n / 64 for n in range(40)]
        real = sum(x * math.cos(turn) for x, turn in zip(windowed, turns, strict=True))
        imaginary = sum(x * math.sin(turn) for x, turn in zip(windowed, turns, strict=True))
        powers.append(real**2 + imaginary**2)

    def mel(hertz: float) -> float:
        return 1127.01 * math.log(1 + hertz / 700)

    count = 40
    edges = [mel(20) + (mel(200) - mel(20)) * at / (count + 1) for at in range(count + 2)]
    for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
        energy = 0.0
        for k, power in enumerate(powers):
            at = mel(6.25 * k)
            if left < at <= centre:
                energy += power * (at - left) / (centre - left)
            elif centre < at < right:
                energy += power * (right - at) / (right - centre)
        levels.append(math.log(max(energy, 2**-27)))
    golden = [
        math.sqrt((1 if c == 0 else 2) / count)
        * sum(level * math.cos(math.pi * c * (b + 0.5) / count) for b, level in enumerate(levels))
        for c in range(3)
    ]
    np.testing.assert_allclose(features(samples, settings)[0, 0, 3], golden, rtol=2e-5, atol=2e-5)


def test_the_usual_geometry() -> None:
    found = tables(MFCC)
    assert (found.stride, len(found.window), found.points, len(found.starts)) == (320, 640, 1024, 40)
    assert features(noise(MFCC, 3), MFCC).shape == (3, 1, 49, 10)
    assert features(noise(MFCC, 3), LOGMEL).shape == (3, 1, 49, 40)
    assert features(noise(MFCC, 0), MFCC).shape == (0, 1, 49, 10)
    np.testing.assert_array_equal(features(noise(RAW, 2), RAW)[:, 0], noise(RAW, 2))
    assert {features(noise(MFCC), each).dtype for each in (MFCC, LOGMEL, RAW)} == {np.dtype(np.float32)}


def test_a_tone_is_in_its_band_with_all_its_energy() -> None:
    time, loudest = np.arange(16000) / 16000, []
    for hertz in (100, 1000, 4000):
        tone = np.sin(2 * np.pi * hertz * time).astype(np.float32)[None]
        energies = np.exp(features(tone, LOGMEL)[0, 0])
        # at power 1 a Hann window spreads a tone over 1.5 bins, here of 640 points, not 1024
        np.testing.assert_allclose(energies.sum(axis=1), 1.5 * 1024 / 640, rtol=2e-3)
        assert len(set(energies.argmax(axis=1).tolist())) == 1
        loudest.append(int(energies[0].argmax()))
    # 20 Hz to 8 kHz is mel 31.7 to 2840.0, in steps of 68.5; 1 kHz is mel 1000.0, 14.1 steps up, and step 14 is band 13
    assert loudest[1] == 13
    assert loudest == sorted(loudest)


def test_silence_is_the_floor() -> None:
    silence = np.zeros((1, 16000), np.float32)
    np.testing.assert_array_equal(features(silence, LOGMEL), np.float32(math.log(FLOOR)))
    mfcc = features(silence, MFCC)[0, 0]
    np.testing.assert_allclose(mfcc[:, 0], math.sqrt(40) * math.log(FLOOR), rtol=1e-6)
    np.testing.assert_allclose(mfcc[:, 1:], 0, atol=1e-4)


@given(st.integers(0, 2**32), st.floats(0.1, 1))
def test_gain_moves_the_first_coefficient_alone(seed: int, gain: float) -> None:
    samples = noise(MFCC, seed=seed)
    before, after = features(samples, MFCC), features(samples * np.float32(gain), MFCC)
    # each band by 2 ln(gain), which a constant, √40 of it, holds alone
    np.testing.assert_allclose(after[..., 0] - before[..., 0], math.sqrt(40) * 2 * math.log(gain), atol=1e-3)
    np.testing.assert_allclose(after[..., 1:], before[..., 1:], atol=1e-3)


@given(st.integers(0, 2**32), st.integers(0, 48))
def test_a_shift_by_strides_shifts_frames(seed: int, frames: int) -> None:
    samples = noise(LOGMEL, seed=seed)
    later = np.concatenate([noise(LOGMEL, seed=seed + 1)[:, : 320 * frames], samples], axis=1)[:, :16000]
    np.testing.assert_array_equal(
        features(later, LOGMEL)[:, :, frames:], features(samples, LOGMEL)[:, :, : 49 - frames]
    )


@given(st.integers(1, 5), st.integers(0, 2**32))
def test_an_example_is_the_same_among_others(count: int, seed: int) -> None:
    samples = noise(MFCC, count, seed)
    alone = [features(each[None], MFCC) for each in samples]
    np.testing.assert_array_equal(features(samples, MFCC), np.concatenate(alone))


@given(st.floats(0.05, 1.4), st.sampled_from([8000, 11025, 16000, 44100]), st.floats(0.012, 0.5), st.integers(1, 40))
def test_frames_lie_within_the_samples_and_bands_share_all_between_them(
    seconds: float, rate: int, stride: float, values: int
) -> None:
    frames = max(1, int(seconds / stride) - 1)
    settings = Sounds(seconds=seconds, rate=rate, features=f"logmel{frames}x{values}")
    found = tables(settings)
    assert (frames - 1) * found.stride + len(found.window) <= settings.samples
    assert len(found.window) <= found.points < 2 * len(found.window)
    np.testing.assert_allclose(found.window[: found.stride] + found.window[found.stride :], 2 / found.stride, rtol=1e-5)
    assert len(found.starts) == values
    assert (found.weights > 0).all()
    assert found.bins.min() > 0
    assert found.bins.max() < found.points // 2
    # between the first band's centre and the last one's, neighbours' weights of a bin add up to 1
    sums = np.bincount(found.bins, found.weights)
    peaks = [at[found.weights[at].argmax()] for at in np.split(np.arange(len(found.bins)), found.starts[1:])]
    first, last = found.bins[peaks[0]] + 1, found.bins[peaks[-1]]
    np.testing.assert_allclose(sums[first:last], 1, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Sounds(features="mfcc49x41"), "'mfcc49x41': 40 coefficients are the most"),
        (
            Sounds(features="mfcc999x10"),
            "'mfcc999x10': some of 40 bands lie between two bins of a window of 32 samples",
        ),
        (Sounds(rate=40, seconds=100), "rate 40 leaves no band above 20 Hz"),
        (Sounds(seconds=600), "'mfcc49x10': frames of 384000 samples are longer than 65536; more frames will do"),
        (Sounds(features="spectra"), "'spectra' is none of"),
    ],
)
def test_what_cannot_be_is_refused(settings: Sounds, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        features(np.zeros((1, settings.samples), np.float32), settings)


def test_samples_of_another_length_are_refused() -> None:
    for wrong in (np.zeros((1, 15999), np.float32), np.zeros(16000, np.float32)):
        with pytest.raises(ValueError, match=r"expected \(n, 16000\)"):
            features(wrong, MFCC)
    with pytest.raises(ValueError, match="'raw' has no tables"):
        tables(RAW)
