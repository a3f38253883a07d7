"""Arabic Speech Commands (Ghandoura et al. 2021): 40 spoken words of 30 people, as 49 frames of 10 MFCCs."""

import zipfile
from pathlib import Path

import numpy as np

from fedprune.data.examples import DataError, Dataset, Examples
from fedprune.data.sources import existing

SHAPE = (1, 49, 10)
REMEDY = (
    "give --data-dir a folder that holds arabic_speech_commands/mfcc49x10.npz with arrays "
    "{train,validation,test}_{mfcc,label,speaker} and label_names"
)


def load(data_dir: Path) -> Dataset:
    """Returns the keywords from `data_dir`/arabic_speech_commands/mfcc49x10.npz, inputs (n, 1, 49, 10) float16.

    Validation speakers join the training data: each device makes its own development split. The constants, one for
    each MFCC since the first is an energy of quite another size, are those of these 9,600 recordings.
    Raises `DataError` naming what is missing.
    """
    path = existing("keywords", data_dir / "arabic_speech_commands" / "mfcc49x10.npz", REMEDY)
    try:
        with np.load(path) as file:
            stored = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"keywords: {path} cannot be read as .npz: {error}") from error
    kinds = ("mfcc", "label", "speaker")
    missing = [f"{split}_{kind}" for split in ("train", "validation", "test") for kind in kinds]
    missing = [key for key in ["label_names", *missing] if key not in stored]
    if missing:
        raise DataError(f"keywords: {path} has no array {missing[0]}; {REMEDY}")
    train = Examples(
        np.concatenate([stored["train_mfcc"], stored["validation_mfcc"]])[:, None],
        np.concatenate([stored["train_label"], stored["validation_label"]]).astype(np.int64),
        np.concatenate([stored["train_speaker"], stored["validation_speaker"]]).astype(np.int64),
    )
    test = Examples(
        stored["test_mfcc"][:, None], stored["test_label"].astype(np.int64), stored["test_speaker"].astype(np.int64)
    )
    mean = [-34.15, 11.19, 2.54, 0.78, -0.88, -0.38, -0.61, -0.26, -0.67, 0.19]
    std = [21.09, 11.37, 5.70, 5.16, 3.69, 3.49, 3.03, 2.48, 2.32, 2.22]
    return Dataset(
        name="keywords",
        train=train,
        test=test,
        classes=tuple(str(name) for name in stored["label_names"]),
        input_shape=SHAPE,
        mean=np.array(mean, np.float32)[None, None],
        std=np.array(std, np.float32)[None, None],
    )
