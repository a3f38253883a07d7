"""Devices' words on their data, merged: what they come to, and that no word of one alone is taken for everybody's."""

import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fedprune.data.agreement import Told, agree, schema_of, seen_by_one, tell
from fedprune.data.examples import DataError
from fedprune.data.own import Recorded, parts, read
from fedprune.experiment import Data, parse
from fedprune.experiment.own_data import Pictures

ARRAYS = Data("arrays", "own", test=0.0, development=0.0)


def told(inputs: np.ndarray, settings: Data = ARRAYS) -> Told:
    """What a device says that holds these inputs (n, C, ...), of the labels a and b by turns."""
    labels = tuple("ab"[row % 2] for row in range(len(inputs)))
    recorded = Recorded(inputs, labels, tuple(map(str, range(len(inputs)))))
    mine = seen_by_one(settings, recorded)
    schema = schema_of(mine)
    return tell(settings, schema, parts(mine, recorded, schema.classes)[0])


def test_moments_are_those_of_all_inputs_pooled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedprune.data.agreement._BLOCK", 50)  # several blocks, the last a short one
    rng = np.random.default_rng(0)
    each = [rng.normal(loc=7, scale=3, size=(n, 2, 5)).astype(np.float32) for n in (1, 40, 333)]
    agreed = agree(ARRAYS, {str(n): told(inputs) for n, inputs in enumerate(each)}).settings
    pooled = np.concatenate(each).astype(np.float64)
    assert agreed.mean == pytest.approx(tuple(pooled.mean(axis=(0, 2))), rel=1e-6)
    assert agreed.std == pytest.approx(tuple(pooled.std(axis=(0, 2))), rel=1e-6)


def test_moments_of_many_inputs_take_little_memory_besides() -> None:
    inputs = np.zeros((20_000, 3, 32, 32), np.uint8)
    settings = Data("pictures", "own", test=0.0, development=0.0, pictures=Pictures())
    tracemalloc.start()
    told(inputs, settings)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < inputs.nbytes  # as doubles they take eight times as much


@pytest.mark.parametrize("value", [7, 100, 255])
def test_a_channel_that_never_changes_stays_as_it_is(value: int) -> None:
    settings = Data("pictures", "own", test=0.0, development=0.0, pictures=Pictures((4, 4)))
    inputs = np.random.default_rng(0).integers(0, 256, (37, 3, 4, 4)).astype(np.uint8)
    inputs[:, 2] = value
    agreed = agree(settings, {"one": told(inputs, settings), "other": told(inputs[:11], settings)}).settings
    assert agreed.std[2] == 1.0
    assert abs(schema_of(agreed).normalise(inputs)[:, 2]).max() < 1e-6


def test_one_device_alone_decides_no_shape_by_what_it_says_to_have() -> None:
    honest = {name: told(np.ones((9, 1, 6), np.float32)) for name in ("ann", "bob")}
    many = {part: {"a": 2**31 - 1, "b": 1} for part in ("train", "development", "test")}
    liar = Told((1, 7), many, np.zeros(1), np.zeros(1))
    agreed = agree(ARRAYS, {**honest, "eve": liar})
    assert agreed.settings.shape == (1, 6)
    assert agreed.holds["eve"]["train"] == 0
    assert len(agreed.notices) == 1
    assert agreed.notices[0].startswith("eve: ")


def test_more_classes_than_a_model_has_are_told_in_one_line() -> None:
    def of(start: int) -> Told:
        named = {f"{start + index}": 1 for index in range(6_000)}
        return Told((1, 6), {"train": named, "development": {}, "test": {}}, np.zeros(1), np.ones(1))

    with pytest.raises(DataError, match=r"devices have 12,000 labels, a model at most 10,000; give data\.classes"):
        agree(ARRAYS, {"ann": of(0), "bob": of(6_000)})


def test_what_is_agreed_on_is_no_reason_to_read_a_folder_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from own_folders import PICTURES, write_picture

    write_picture(tmp_path / "cat" / "one.png", np.zeros((4, 6, 3), np.uint8))
    before = read(PICTURES, tmp_path)
    monkeypatch.setattr("fedprune.data.own.pictures.read", lambda file, settings: pytest.fail("is read again"))
    after = read(
        msgspec.structs.replace(PICTURES, classes=("cat", "dog"), shape=(3, 4, 6), mean=(0.0,) * 3, std=(1.0,) * 3),
        tmp_path,
    )
    assert np.array_equal(before.inputs, after.inputs)


def test_a_spread_is_a_number_that_travels() -> None:
    for mean, m2 in ((1e29, 1e59), (1e-31, 1e-70)):
        one = Told((1, 6), {"train": {"a": 1, "b": 1}}, np.array([mean]), np.array([m2]))
        other = one._replace(mean=-one.mean)
        agreed = agree(ARRAYS, {"one": one, "other": other}).settings
        assert msgspec.json.decode(msgspec.json.encode(agreed), type=Data) == agreed


def test_a_label_that_a_mac_wrote_is_that_of_others(tmp_path: Path) -> None:
    from own_folders import PICTURES, write_picture

    for at, name in enumerate(("caf\u00e9", "cafe\u0301")):
        write_picture(tmp_path / str(at) / name / "one.png", np.zeros((4, 6, 3), np.uint8))
    assert read(PICTURES, tmp_path / "0").labels == read(PICTURES, tmp_path / "1").labels == ("caf\u00e9",)
    table = {"name": "x", "model": "digits_cnn", "rounds": 1, "method": {"name": "fedavg"}}
    data = {"name": "pictures", "partition": "own", "classes": ["cafe\u0301", "tea"]}
    assert parse({**table, "data": data}, "x.toml").data.classes == ("caf\u00e9", "tea")
