"""UCI Human Activity Recognition (Anguita et al. 2013): smartphone signals of 30 people, six activities."""

import json
from pathlib import Path

import numpy as np

from fedprune.data.examples import DataError, Dataset, Examples
from fedprune.data.sources import existing, integers, read_parquet

CHANNELS = tuple(f"{signal}_{axis}" for signal in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
COLUMNS = ("subject", "label", *CHANNELS)
CLASSES = ("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING")
SAMPLES = 128  # 2.56 s at 50 Hz; consecutive windows share half
REMEDY = (
    "give --data-dir a folder that holds ucihar/train.parquet and ucihar/test.parquet, one row a window, columns "
    f"subject, label (0 to 5) and nine signals ({CHANNELS[0]}, ...) of {SAMPLES} floats"
)


def load(data_dir: Path) -> Dataset:
    """Returns UCI HAR from `data_dir`/ucihar/{train,test}.parquet, inputs (n, 9, 128) float32 in g and rad/s.

    The constants are those of the 7,352 training windows. Raises `DataError` naming what is missing.
    """
    folder = data_dir / "ucihar"
    train, test = (_split(existing("ucihar", folder / f"{split}.parquet", REMEDY)) for split in ("train", "test"))
    mean = [-0.0006, -0.0003, -0.0003, 0.0005, -0.0008, 0.0001, 0.8047, 0.0288, 0.0865]
    std = [0.1948, 0.1224, 0.1069, 0.4068, 0.3819, 0.2557, 0.4141, 0.3910, 0.3578]
    return Dataset(
        name="ucihar",
        train=train,
        test=test,
        classes=CLASSES,
        input_shape=(len(CHANNELS), SAMPLES),
        mean=np.array(mean, np.float32)[:, None],
        std=np.array(std, np.float32)[:, None],
        overlap=1,
    )


def _split(path: Path) -> Examples:
    table = read_parquet("ucihar", path, COLUMNS, REMEDY)
    # A file with other labels would train without complaint and report nonsense.
    names = json.loads((table.schema.metadata or {}).get(b"label_names", b"null"))
    if names is not None and tuple(names) != CLASSES:
        raise DataError(f"ucihar: {path} names its labels {names}, expected {list(CLASSES)}")
    inputs = np.empty((table.num_rows, len(CHANNELS), SAMPLES), np.float32)
    for channel, name in enumerate(CHANNELS):
        samples = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        if samples.size != table.num_rows * SAMPLES:
            raise DataError(f"ucihar: column {name} of {path} must hold {SAMPLES} floats a row")
        inputs[:, channel] = samples.reshape(-1, SAMPLES)
    return Examples(inputs, *(integers("ucihar", path, table, name) for name in ("label", "subject")))
