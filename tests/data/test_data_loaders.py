"""Loaders: the real data where it lies, small files in its layout anywhere, and errors that say what to do."""

import io
import json
import lzma
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fedprune import tasks
from fedprune.data import (
    DataError,
    Dataset,
    Examples,
    cache,
    cifar10,
    federate,
    iid,
    load,
    load_from_hub,
    plays,
    shapes,
    validate,
)
from fedprune.data.ucihar import CHANNELS


@pytest.fixture(autouse=True)
def own_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a cache of its own, but the one that decodes all of CIFAR-10 uses the user's."""
    if request.node.name != "test_real_cifar10":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def encode(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    pytest.importorskip("PIL.Image").fromarray(image).save(file, "WEBP", lossless=True)
    return file.getvalue()


def write_cifar10(folder: Path, train: int = 30, test: int = 10) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    (folder / "cifar10").mkdir(parents=True)
    for split, count in (("train", train), ("test", test)):
        rows = [{"bytes": encode(image), "path": None} for image in pictures(count)]
        table = arrow.table({"img": rows, "label": np.arange(count) % 10})
        parquet.write_table(table, folder / "cifar10" / f"{split}.parquet")


def constants_fit(dataset: Dataset, tolerance: float) -> bool:
    """Whether the training data has mean 0 and standard deviation 1 once normalised."""
    inputs = dataset.normalise(dataset.train.inputs)
    shape = (1, *dataset.mean.shape)
    axes = tuple(axis for axis in range(inputs.ndim) if shape[axis] == 1)
    mean, std = inputs.mean(axes, dtype=np.float64), inputs.std(axes, dtype=np.float64)
    return bool((np.abs(mean) < tolerance).all() and (np.abs(std - 1) < tolerance).all())


def test_importing_the_room_imports_no_reader() -> None:
    readers = {"sklearn", "pyarrow", "PIL", "datasets", "flwr_datasets", "torch", "pandas"}
    code = f"import sys, fedprune.data; print(sorted({readers} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_digits() -> None:
    pytest.importorskip("sklearn")
    dataset = load("digits")
    assert dataset.train.inputs.shape == (1797, 1, 8, 8)
    assert dataset.train.inputs.dtype == np.uint8
    assert dataset.test is None
    assert constants_fit(dataset, 0.02)


def test_digits_are_those_of_scikit_learns_own_loader() -> None:
    stored, dataset = pytest.importorskip("sklearn.datasets").load_digits(), load("digits")
    assert np.array_equal(dataset.train.inputs, stored.images[:, None])
    assert np.array_equal(dataset.train.labels, stored.target)
    assert (dataset.train.labels.dtype, dataset.train.inputs.flags.c_contiguous) == (np.int64, True)


def test_shapes() -> None:
    dataset = load("shapes", task=tasks.named("segmentation"))
    assert (dataset.train.inputs.shape, dataset.train.inputs.dtype) == ((1800, 3, 32, 32), np.uint8)
    assert (dataset.train.labels.shape, dataset.classes) == ((1800, 32, 32), shapes.CLASSES)
    assert constants_fit(dataset, 0.005)
    again, other = shapes.load(), shapes.load(seed=1)
    assert np.array_equal(again.train.inputs, dataset.train.inputs)
    assert (other.train.inputs != dataset.train.inputs).mean() > 0.9
    # no two cameras see the same: some pass mostly circles, some hardly any
    circles = [(part.train.labels == 1).sum() / (part.train.labels > 0).sum() for part in federate(dataset).devices]
    assert len(circles) == shapes.CAMERAS
    assert min(circles) < 0.2 < 0.4 < max(circles)
    with pytest.raises(DataError, match=r"^shapes: train labels .*, expected"):
        load("shapes")


def test_where_a_shape_is_drawn_its_pixels_are_labelled() -> None:
    pictures, labels = shapes.camera(0, 400)
    shares = np.bincount(labels.ravel(), minlength=4) / labels.size
    assert 0.5 < shares[0] < 0.8
    assert (shares[1:] > 0.03).all()
    inside = np.abs(pictures.astype(float) - np.median(pictures, axis=(2, 3), keepdims=True)).mean(axis=1)
    assert inside[labels > 0].mean() > 1.5 * inside[labels == 0].mean()


def test_real_ucihar(data_dir: Path) -> None:
    dataset = load("ucihar", data_dir)
    assert dataset.test is not None
    assert dataset.train.inputs.shape == (7352, 9, 128)
    assert dataset.test.inputs.shape == (2947, 9, 128)
    assert constants_fit(dataset, 0.001)
    federation = federate(dataset)
    assert len(federation.devices) == 30
    # No half of a test window is a half of anything trained on, in any device or the public set.
    trained = [federation.public, *(part for one in federation.devices for part in (one.train, one.development))]
    seen = {half.tobytes() for part in trained for window in part.inputs[:, 0] for half in np.split(window, 2)}
    tests = [half for one in federation.devices for window in one.test.inputs[:, 0] for half in np.split(window, 2)]
    assert not any(half.tobytes() in seen for half in tests)
    # One window at most is given up for each person and activity.
    assert len(federation.unused_indices) <= 30 * 6
    # Without a network by name: said, not tried.
    with pytest.raises(DataError, match="561 computed features"):
        load("ucihar")


def test_real_keywords(data_dir: Path) -> None:
    dataset = load("keywords", data_dir)
    assert dataset.train.inputs.shape == (9600, 1, 49, 10)
    assert len(dataset.classes) == 40
    assert constants_fit(dataset, 0.005)
    federation = federate(dataset, official_test=True)
    assert [len(one.test_indices) for one in federation.devices if len(one.test_indices)] == [400] * 6
    assert sum(len(one.train_indices) > 0 for one in federation.devices) == 24
    assert len(federation.unused_indices) == 0


def test_real_cifar10(data_dir: Path) -> None:
    dataset = load("cifar10", data_dir)
    assert dataset.train.inputs.shape == (50000, 3, 32, 32)
    assert dataset.test is not None
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    for channel in range(3):  # by histogram: as floats the images would fill a gigabyte
        shares = np.bincount(dataset.train.inputs[:, channel].ravel(), minlength=256) / (50000 * 32 * 32)
        values = np.arange(256) / 255
        mean = shares @ values
        assert abs(mean - dataset.mean[channel, 0, 0]) < 1e-4
        assert abs(np.sqrt(shares @ (values - mean) ** 2) - dataset.std[channel, 0, 0]) < 1e-4
    federation = federate(dataset, iid, 100)
    assert {len(one.test_indices) for one in federation.devices} <= {99, 100, 101}


def test_cifar10_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path)
    first = load("cifar10", tmp_path)
    assert np.array_equal(first.train.inputs, pictures(30).transpose(0, 3, 1, 2))
    files = sorted(cache.cache_directory().iterdir())
    assert [file.suffix for file in files] == [".npy", ".npy"]

    decode = cifar10.decode
    monkeypatch.setattr(cifar10, "decode", None)
    again = load("cifar10", tmp_path)
    assert isinstance(again.train.inputs, np.memmap)
    assert np.array_equal(first.train.inputs, again.train.inputs)

    monkeypatch.setattr(cifar10, "decode", decode)
    whole = files[0].read_bytes()
    for damaged in (b"", whole[:50], whole[:-1], b"PK\x03\x04" + whole[4:], whole[:6] + b"\xff" * 60 + whole[66:]):
        files[0].write_bytes(damaged)
        assert np.array_equal(load("cifar10", tmp_path).train.inputs, first.train.inputs)
        assert files[0].read_bytes() == whole
    monkeypatch.setenv("XDG_CACHE_HOME", str(files[0]))  # no directory: nothing can be written
    assert np.array_equal(load("cifar10", tmp_path).train.inputs, first.train.inputs)


def test_a_changed_source_is_decoded_anew(tmp_path: Path) -> None:
    write_cifar10(tmp_path, train=30)
    load("cifar10", tmp_path)
    (tmp_path / "cifar10" / "test.parquet").replace(tmp_path / "cifar10" / "train.parquet")
    write_cifar10(tmp_path / "other", test=10)
    (tmp_path / "other" / "cifar10" / "test.parquet").replace(tmp_path / "cifar10" / "test.parquet")
    assert len(load("cifar10", tmp_path).train) == 10


def test_hub_set_equals_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path)
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("flwr_datasets")
    images, labels = pictures(30), np.arange(30) % 10
    rows = {"img": [{"bytes": encode(image), "path": None} for image in images], "label": labels}
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(cifar10.CLASSES))})
    full = datasets.Dataset.from_dict(rows, features=features)
    splits = datasets.DatasetDict({"train": full, "test": full.select(range(10))})
    monkeypatch.setattr("datasets.load_dataset", lambda **_: splits)
    hub, files = load_from_hub("cifar10"), load("cifar10", tmp_path)
    assert hub.test is not None
    assert files.test is not None
    for mine, theirs in ((hub.train, files.train), (hub.test, files.test)):
        assert np.array_equal(mine.inputs, theirs.inputs)
        assert np.array_equal(mine.labels, theirs.labels)


def test_no_network_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**_: object) -> None:
        raise ConnectionError("name resolution failed")

    fake = ModuleType("flwr_datasets")
    fake.FederatedDataset = unreachable  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flwr_datasets", fake)
    with pytest.raises(DataError, match=r"uoft-cs/cifar10 cannot be fetched .*; give --data-dir"):
        load("cifar10")


def write_plays(folder: Path, texts: Sequence[str]) -> Path:
    (folder / "shakespeare").mkdir(exist_ok=True)
    path = folder / "shakespeare" / "by_role.jsonl.xz"
    lines = [json.dumps({"play": "p", "role": str(at), "text": text}) for at, text in enumerate(texts)]
    path.write_bytes(lzma.compress("\n".join(lines).encode()))
    return path


def test_plays_are_windows_of_what_comes_next_role_by_role(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    said = ["".join(rng.choice([*plays.VOCABULARY], plays.LEAST + 650 * each)) for each in range(3)]
    write_plays(tmp_path, [said[0], "short", said[1], said[2][:-3] + "|é\t"])
    dataset = load("plays", tmp_path, tasks.named("next_token"))
    inputs, labels = dataset.train.inputs, dataset.train.labels
    assert inputs.shape[1:] == labels.shape[1:] == dataset.input_shape == (64,)
    assert np.array_equal(inputs[:, 1:], labels[:, :-1])
    assert dataset.train.people is not None
    assert np.bincount(dataset.train.people).tolist() == [len(text) // 65 for text in said]
    assert "".join(plays.VOCABULARY[token] for token in inputs[1]) == said[0][65:129]
    last = "".join(plays.VOCABULARY[token] for token in labels[-1])
    whole = said[2][:-3] + "   "
    assert last == whole[len(whole) // 65 * 65 - 64 : len(whole) // 65 * 65]
    # no twelve characters that anybody is tested on are read by anybody who trains, selects or calibrates
    federation = federate(dataset, public=0.1)
    held = [federation.public, *(part for each in federation.devices for part in (each.train, each.development))]
    seen = {row[at : at + 12].tobytes() for part in held for row in _rows(part) for at in range(54)}
    tested = [row for each in federation.devices for row in _rows(each.test)]
    assert not any(row[at : at + 12].tobytes() in seen for row in tested for at in range(54))
    for device in federation.devices:
        assert device.test_indices.min() > max(device.train_indices.max(), device.development_indices.max())
        assert len(device.test) == pytest.approx(0.2 * sum(device.sizes().values()), rel=0.15)


def _rows(part: Examples) -> np.ndarray:
    """Windows (n, 65) of a part."""
    rows: np.ndarray = np.concatenate([part.inputs, part.labels[:, -1:]], axis=1).astype(np.uint8)
    return rows


def test_real_plays(data_dir: Path) -> None:
    dataset = load("plays", data_dir, tasks.named("next_token"))
    assert dataset.train.inputs.shape == (14996, 64)
    federation = federate(dataset)
    assert len(federation.devices) == 34
    held = [federation.public, *(part for each in federation.devices for part in (each.train, each.development))]
    seen = {row.tobytes() for part in held for row in _rows(part)}
    assert not any(row.tobytes() in seen for each in federation.devices for row in _rows(each.test))


def test_missing_files_and_columns_are_named(tmp_path: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    for name, file in (
        ("cifar10", "train.parquet"),
        ("ucihar", "train.parquet"),
        ("keywords", "mfcc49x10.npz"),
        ("plays", "by_role.jsonl.xz"),
    ):
        with pytest.raises(DataError, match=f"^{name}: no {file} in {tmp_path}.*; give --data-dir a folder that holds"):
            load(name, tmp_path)
    write_cifar10(tmp_path)
    train = tmp_path / "cifar10" / "train.parquet"

    def fails(message: str, name: str = "cifar10") -> None:
        with pytest.raises(DataError, match=message) as caught:
            load(name, tmp_path)
        assert "\n" not in str(caught.value)

    parquet.write_table(arrow.table({"img": [1], "fine_label": [0]}), train)
    fails("train.parquet has no column label; give --data-dir")
    parquet.write_table(arrow.table({"label": [0]}), train)
    fails("train.parquet has no column img")
    parquet.write_table(arrow.table({"img": [1], "label": [0]}), train)
    fails("column img of .* is int64, expected")
    parquet.write_table(arrow.table({"img": [{"bytes": b"no image"}], "label": [0]}), train)
    fails("row 0, holds no image")
    parquet.write_table(arrow.table({"img": [{"bytes": encode(pictures(1)[0][:8])}], "label": [0]}), train)
    fails(r"row 0, is an image of \(8, 32, 3\)")
    parquet.write_table(arrow.table({"img": [{"bytes": encode(pictures(1)[0])}], "label": [10]}), train)
    fails("train labels reach from 10 to 10, expected 0 to 9")
    parquet.write_table(arrow.table({"img": [1], "label": ["cat"]}), train)
    fails("column label of .* is string, expected integers")
    train.write_bytes(b"not parquet at all")
    fails("cannot be read as parquet")

    (tmp_path / "ucihar").mkdir()
    signals = {channel: [[0.0] * 100] for channel in CHANNELS}
    for split in ("train", "test"):
        parquet.write_table(
            arrow.table({"subject": [1], "label": [0], **signals}), tmp_path / "ucihar" / f"{split}.parquet"
        )
    fails("column body_acc_x of .* must hold 128 floats", "ucihar")
    (tmp_path / "arabic_speech_commands").mkdir()
    np.savez(tmp_path / "arabic_speech_commands" / "mfcc49x10.npz", label_names=np.array(["up"]))
    fails("has no array train_mfcc", "keywords")
    (tmp_path / "arabic_speech_commands" / "mfcc49x10.npz").write_bytes(b"PK\x03\x04 torn")
    fails("cannot be read as .npz", "keywords")
    file = write_plays(tmp_path, ["too short"])
    fails("has no role of 20,000 characters", "plays")
    file.write_bytes(lzma.compress(b'{"text": "a"}\n{"role": 3}\n'))
    fails("line 2 of .* has no text", "plays")
    for torn in (file.read_bytes()[:40], b"no xz", lzma.compress(b"no json"), lzma.compress(b'"\xff"')):
        file.write_bytes(torn)
        fails("cannot be read as lines of JSON in .xz", "plays")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for module, extra, name, folder in (
        ("sklearn.datasets", "simulation", "digits", None),
        ("pyarrow.parquet", "simulation", "cifar10", tmp_path),
        ("flwr_datasets", "hub", "cifar10", None),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(DataError, match=rf"{module} cannot be imported .*pip install 'fedprune\[{extra}\]'"):
            load(name, folder)


def one(shape: tuple[int, ...] = (2,), labels: tuple[int, ...] = (0, 1), **changes: object) -> Dataset:
    inputs = np.zeros((len(labels), *shape), np.float32)
    unit = np.ones(1, np.float32)
    fields = {"input_shape": (2,), "mean": unit, "std": unit, **changes}
    return Dataset("mine", Examples(inputs, np.array(labels)), None, ("a", "b"), **fields)  # type: ignore[arg-type]


def own(data_dir: Path | None) -> Dataset:
    """A user's loader, found by its dotted name."""
    return one()


def damaged(data_dir: Path | None) -> Dataset:
    dataset = one()
    dataset.train.inputs[1, 0] = np.nan
    return dataset


def nothing(data_dir: Path | None) -> None:
    return None


def test_a_dotted_name_brings_ones_own() -> None:
    assert load(f"{__name__}:own").name == "mine"
    for name, message in (
        ("nowhere.data:load", "'nowhere.data' cannot be imported"),
        (":load", "cannot be imported"),
        (f"{__name__}:absent", "has no attribute 'absent'; expected a function"),
        (f"{__name__}:nothing", "returned a NoneType, expected a fedprune.data.Dataset"),
        (f"{__name__}:__name__", "is a str, expected a function"),
        (f"{__name__}:damaged", "train inputs hold values that are not finite"),
        ("mnist", "choose one of digits, shapes, cifar10, keywords, plays, ucihar"),
    ):
        with pytest.raises(DataError, match=message):
            load(name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: one(shape=(3,)), r"train inputs have shape \(3,\), expected \(2,\)"),
        (lambda: one(labels=(0, 2)), "labels reach from 0 to 2, expected 0 to 1"),
        (lambda: one(labels=(-1, 1)), "labels reach from -1"),
        (lambda: one(mean=np.ones(3, np.float32)), "mean of shape"),
        (lambda: one(mean=np.ones((5, 2), np.float32)), "mean of shape"),
        (lambda: one(std=np.zeros(1, np.float32)), "greater than 0"),
        (lambda: Examples(np.zeros((3, 1)), np.zeros(2, np.int64)), "labels are int64 of shape .* there are 3 inputs"),
        (lambda: Dataset("mine", Examples(np.zeros((3, 1)), np.zeros(3))), "train labels are float32 of shape"),
    ],
)
def test_contradictions_are_named(make: Callable[[], Dataset], message: str) -> None:
    with pytest.raises(DataError, match=message):
        validate(make())


def test_normalise_by_hand() -> None:
    dataset = one(mean=np.array([0.5, 0.0], np.float32), std=np.array([0.5, 2.0], np.float32), scale=0.1)
    raw = np.array([[10, 20]], np.uint8)
    assert np.allclose(dataset.normalise(raw), [[1.0, 1.0]])
    assert dataset.normalise(raw).dtype == np.float32
    assert raw.tolist() == [[10, 20]]
