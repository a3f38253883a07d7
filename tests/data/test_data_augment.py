"""Laws of the augmentation."""

import numpy as np
import pytest

from fedprune.data import crop_and_flip


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_each_image_is_a_shifted_and_maybe_mirrored_copy(dtype: type) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(1, 255, (200, 3, 9, 7)).astype(dtype)
    before = images.copy()
    changed = crop_and_flip(images, np.random.default_rng(1), padding=2)
    assert changed.dtype == dtype
    assert changed.shape == images.shape
    assert np.array_equal(images, before)
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    seen = set()
    for original, result in zip(padded, changed, strict=True):
        found = [
            (top, left, step)
            for top in range(5)
            for left in range(5)
            for step in (1, -1)
            if np.array_equal(original[:, top : top + 9, left : left + 7][:, :, ::step], result)
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(5))
    assert {step for _, _, step in seen} == {1, -1}


def test_deterministic_in_the_generator() -> None:
    images = np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8)
    one, other = (crop_and_flip(images, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, other)


def test_no_padding_only_flips() -> None:
    images = np.random.default_rng(0).random((50, 1, 4, 4), np.float32)
    changed = crop_and_flip(images, np.random.default_rng(0), padding=0)
    flipped = (changed == images[:, :, :, ::-1]).all((1, 2, 3))
    assert ((changed == images).all((1, 2, 3)) ^ flipped).all()
    assert 10 < flipped.sum() < 40
