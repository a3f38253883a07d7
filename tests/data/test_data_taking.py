"""What people have becomes arrays, names and constants: by hand, and as laws over lists, tensors and frames alike."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedprune import tasks
from fedprune.data import DataError, Dataset, Examples, unscaled, validate


class Frame:
    """What pandas calls a DataFrame or a Series, as far as anybody here needs it."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def to_numpy(self) -> np.ndarray:
        return np.asarray(self.values)


KINDS = {"array": np.asarray, "list": lambda v: v.tolist(), "tensor": torch.from_numpy, "frame": Frame}
X = np.arange(12, dtype=np.float32).reshape(4, 3) % 5
Y = np.array([0, 1, 1, 0])


@pytest.mark.parametrize("labels", KINDS)
@pytest.mark.parametrize("inputs", KINDS)
def test_all_that_people_have_is_the_same_data(inputs: str, labels: str) -> None:
    dataset = validate(Dataset("mine", Examples(KINDS[inputs](X), KINDS[labels](Y), KINDS[labels](Y + 7))))
    assert dataset.train.inputs.dtype == np.float32
    assert np.array_equal(dataset.train.inputs, X)
    assert dataset.train.labels.dtype == np.int64
    assert dataset.train.labels.tolist() == Y.tolist()
    assert dataset.train.people is not None
    assert dataset.train.people.tolist() == (Y + 7).tolist()
    assert (dataset.classes, dataset.input_shape, dataset.test) == (("0", "1"), (3,), None)


def test_bytes_stay_bytes_and_a_tensor_with_a_gradient_is_taken() -> None:
    assert Examples(X.astype(np.uint8), Y).inputs.dtype == np.uint8
    assert Examples(X > 1, Y).inputs.dtype == np.uint8
    assert Examples(torch.tensor(X, requires_grad=True), Y).inputs.tolist() == X.tolist()
    assert Examples([torch.from_numpy(row) for row in X], Y).inputs.tolist() == X.tolist()


def test_constants_by_hand() -> None:
    # channel 0 holds 0, 2, 4, 6: mean 3, variance (9 + 1 + 1 + 9) / 4 = 5; channel 1 never changes
    inputs = np.array([[[0, 2], [7, 7]], [[4, 6], [7, 7]]], np.uint8)
    dataset = Dataset("mine", Examples(inputs, [0, 1]), scale=0.5)
    assert dataset.mean.tolist() == [[1.5], [3.5]]
    assert dataset.std.tolist() == [[np.float32(np.sqrt(5) / 2)], [1.0]]
    assert Dataset("mine", Examples(inputs, [0, 1]), mean=2).mean == 2
    assert Dataset("mine", Examples(inputs, [0, 1]), mean=2).std.tolist() == [[np.float32(np.sqrt(5))], [1.0]]


@given(st.integers(0, 2**32), st.sampled_from([np.uint8, np.float32]), st.integers(1, 3), st.integers(1, 40))
def test_with_its_own_constants_every_channel_has_mean_0_and_deviation_1(
    seed: int, dtype: type, channels: int, count: int
) -> None:
    inputs = (np.random.default_rng(seed).random((count, channels, 4)) * 255).astype(dtype)
    dataset = validate(Dataset("mine", Examples(inputs, np.zeros(count, int)), scale=0.1))
    found = dataset.normalise(inputs).astype(np.float64)
    assert np.abs(found.mean((0, 2))).max() < 1e-3
    spread = inputs.std((0, 2))
    assert np.allclose(found.std((0, 2))[spread > 1], 1, atol=1e-3)
    assert unscaled(dataset) == ""


@pytest.mark.parametrize(
    ("classes", "labels", "names", "indices"),
    [
        ((0, 1), [0, 1, 1], ("0", "1"), [0, 1, 1]),
        (None, [0, 1, 1], ("0", "1"), [0, 1, 1]),
        (None, [10, 9, 10], ("9", "10"), [1, 0, 1]),
        (None, [-1, 1, -1], ("-1", "1"), [0, 1, 0]),
        (None, [True, False, True], ("0", "1"), [1, 0, 1]),
        (None, ["no", "yes", "no"], ("no", "yes"), [0, 1, 0]),
        (("yes", "no"), ["no", "yes", "no"], ("yes", "no"), [1, 0, 1]),
        (["a", "b", "c"], [2, 0, 2], ("a", "b", "c"), [2, 0, 2]),
        (np.array([1, 2, 3]), [1, 3, 2], ("1", "2", "3"), [0, 2, 1]),
        (None, np.array(["b", "a", "b"], object), ("a", "b"), [1, 0, 1]),
    ],
)
def test_labels_become_indices_of_their_names(classes: Any, labels: Any, names: tuple[str], indices: list[int]) -> None:
    dataset = validate(Dataset("mine", Examples(X[:3], labels), None, classes))
    assert dataset.classes == names
    assert dataset.train.labels.tolist() == indices


def test_classes_are_those_of_both_splits_and_people_may_have_names() -> None:
    dataset = Dataset("mine", Examples(X[:2], ["b", "c"], ["eve", "ada"]), Examples(X[2:], ["a", "b"], ["ada", "bob"]))
    assert dataset.classes == ("a", "b", "c")
    assert dataset.test is not None
    assert (dataset.train.labels.tolist(), dataset.test.labels.tolist()) == ([1, 2], [0, 1])


def test_one_number_a_channel_will_do() -> None:
    images = np.zeros((2, 3, 4, 5), np.uint8)
    dataset = validate(Dataset("mine", Examples(images, [0, 1]), mean=[1, 2, 3], std=4.0))
    assert dataset.normalise(images)[0, :, 2, 3].tolist() == [-0.25, -0.5, -0.75]


@pytest.mark.parametrize(
    ("inputs", "labels", "more", "message"),
    [
        ([[1, 2], [3]], [0, 1], {}, "inputs are no array: "),
        ([["a", "b"]], [0], {}, "inputs are <U1 of shape"),
        (np.array([[1, "a"]], object), [0], {}, "inputs hold what is no number: could not convert"),
        (3, [0], {}, "inputs are one int64"),
        (X, Y[:3], {}, r"labels are int64 of shape \(3,\), but there are 4 inputs"),
        (X, ["a", "b", "d", "a"], {"classes": ("a", "b")}, "label 'd' is none of the classes a, b"),
        (X, [1, 2, 5, 1], {"classes": (1, 2)}, "label '5' is none of the classes 1, 2"),
        (X, [1, 2, 2, 1], {"classes": ("a", "b")}, "labels reach from 1 to 2, expected 0 to 1"),
        (X, np.array(["a", None, "a", "b"], object), {}, "label 1 is None, expected the name"),
        (X, [0.5, 1, 2, 3], {}, "labels are float32 of shape .* expected one class for each example"),
        (X, Y, {"classes": ("a", "a")}, "classes name 'a' twice"),
        (X, Y, {"mean": "0"}, "mean and std are numbers"),
        (X, Y, {"std": X.std(0) * 0}, "greater than 0; without mean and std, the inputs' own are taken"),
        (X[:, 0], Y, {}, r"inputs have shape \(4,\), expected \(examples, features\)"),
    ],
)
def test_what_cannot_be_taken_is_one_line(inputs: Any, labels: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        validate(Dataset("mine", Examples(inputs, labels), **more))
    assert "\n" not in str(caught.value)


def test_raw_pixels_are_noticed_and_scaled_ones_are_not() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 1, 8, 8), dtype=np.uint8)
    raw = Examples(pixels, np.arange(50) % 2)
    said = unscaled(Dataset("mine", raw, mean=0, std=1))
    assert "scale 1, mean 0 and std 1" in said
    assert "leave mean and std out of the Dataset, or give about mean 12" in said
    assert unscaled(Dataset("mine", Examples(pixels.astype(np.float32), raw.labels), mean=0, std=1))
    assert unscaled(Dataset("mine", raw, mean=0, std=1, scale=1 / 255)) == ""
    assert unscaled(Dataset("mine", raw)) == ""


@pytest.mark.parametrize(
    ("task", "labels", "names", "wanted"),
    [
        ("regression", [3, 250, 3, 7], ("0",), [[3.0], [250.0], [3.0], [7.0]]),
        (
            "regression",
            [[3, 1], [250, 2], [3, 3], [7, 4]],
            ("0", "1"),
            [[3.0, 1.0], [250.0, 2.0], [3.0, 3.0], [7.0, 4.0]],
        ),
        ("multi_label", [[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]], ("0", "1", "2"), None),
        (
            "depth",
            [[[1, 900]], [[2, 800]], [[3, 700]], [[4, 600]]],
            ("0",),
            [[[[1, 900]]], [[[2, 800]]], [[[3, 700]]], [[[4, 600]]]],
        ),
    ],
)
def test_whole_numbers_are_what_the_task_takes_them_for(task: str, labels: Any, names: Any, wanted: Any) -> None:
    given = Dataset("mine", Examples(X, labels), Examples(X[:1], labels[:1]))
    dataset = validate(given, tasks.named(task))
    assert dataset.classes == names
    assert dataset.train.labels.dtype == np.float32
    assert dataset.train.labels.tolist() == (labels if wanted is None else wanted)
    assert dataset.test is not None
    assert dataset.test.labels.tolist() == dataset.train.labels[:1].tolist()
    named = Dataset("mine", Examples(X, labels), None, [f"output {name}" for name in names])
    assert validate(named, tasks.named(task)).train.labels.tolist() == dataset.train.labels.tolist()


def test_classes_that_are_whole_numbers_are_still_named_by_them() -> None:
    dataset = validate(Dataset("mine", Examples(X, [3, 250, 3, 7])))
    assert (dataset.classes, dataset.train.labels.tolist()) == (("3", "7", "250"), [0, 2, 0, 1])


def test_pictures_do_not_move_without_the_labels_of_their_pixels() -> None:
    pictures, labels = np.zeros((4, 1, 8, 8), np.uint8), np.zeros((4, 8, 8), np.int64)
    labels[:, 2] = 1
    validate(Dataset("mine", Examples(pictures, labels)), tasks.named("segmentation"))
    with pytest.raises(DataError, match=r"^mine: augment moves a picture's pixels and not their labels"):
        validate(Dataset("mine", Examples(pictures, labels), augment=True), tasks.named("segmentation"))
