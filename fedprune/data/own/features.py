"""What a model sees of a sound: its samples as they are."""

import numpy as np
import numpy.typing as npt

from fedprune.experiment.own_data import Sounds


def features(samples: npt.NDArray[np.float32], settings: Sounds) -> npt.NDArray[np.float32]:
    """Return the inputs (n, 1, samples) of sounds (n, samples)."""
    kind, _, _ = settings.kind()
    if kind != "raw":
        raise NotImplementedError(f"sounds.features {settings.features!r}: expected raw")
    return samples[:, None]
