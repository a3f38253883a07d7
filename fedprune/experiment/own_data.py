"""How a device's own recordings become examples: the tables sounds, pictures and tables of [data]."""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Length = Annotated[int, Meta(ge=1, le=2**24)]
_FEATURES = re.compile(r"(mfcc|logmel)([1-9][0-9]{0,3})x([1-9][0-9]{0,3})|(raw)")
_MOST_BANDS = 128


class Sounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Recordings of sound, in folders named after their labels."""

    seconds: Annotated[float, Meta(gt=0, le=3600)] = 1.0
    """Of an example: a longer recording gives several, one after the other; a shorter one is followed by silence."""
    rate: Length = 16000
    """Samples a second."""
    features: str = "mfcc49x10"
    """mfccFxC: F frames of C coefficients; logmelFxB: of B mel bands; raw: the samples themselves."""
    resample: bool = False
    """Whether recordings of another rate are brought to this one; else they are left out."""

    @property
    def samples(self) -> int:
        """Samples of an example."""
        return max(1, round(self.seconds * self.rate))

    def kind(self) -> tuple[str, int, int]:
        """(mfcc, logmel or raw; frames; coefficients or bands), 0 where there are none. ValueError, the right value."""
        if (found := _FEATURES.fullmatch(self.features)) is None:
            raise ValueError(f"{self.features!r} is none of mfccFRAMESxCOEFFICIENTS, logmelFRAMESxBANDS, raw")
        kind, frames, values = found[1] or found[4], int(found[2] or 0), int(found[3] or 0)
        if values > _MOST_BANDS:
            raise ValueError(f"{self.features!r} has more than {_MOST_BANDS} values a frame")
        if frames >= self.samples // 2:
            raise ValueError(f"{self.features!r} has more frames than {self.samples} samples can give")
        return kind, frames, values


class Pictures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pictures, in folders named after their labels."""

    size: tuple[Length, Length] = (32, 32)
    """Height and width that each is brought to."""
    channels: Literal[1, 3] = 3
    """3 for colours, 1 for shades of grey."""


class Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of signals over time, in .csv or .parquet files."""

    signals: tuple[str, ...]
    """Columns that a model sees."""
    label: str = "label"
    """Column of the label; ``folder``: the folder that the file lies in says it."""
    recording: str = "file"
    """Column that says which recording a row is of; ``file``: each file is one."""
    person: str = ""
    """Column of whose a row is, where there is one."""
    window: Length = 128
    """Rows of an example."""
    step: Annotated[int, Meta(ge=0, le=2**24)] = 0
    """Rows from one example of a recording to the next; 0 is as many as in a window, so that none overlap."""
