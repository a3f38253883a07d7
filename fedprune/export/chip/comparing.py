"""C sources built and run here, beside what the reference kernels give for the same inputs."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedprune.export.c99 import Sources, boards
from fedprune.export.chip.benching import rounds_otherwise, trials
from fedprune.export.litert.reader import read

_MOST_WORK = 2**31  # multiply-adds in all


def compared(made: Sources, model: bytes) -> dict[str, Any] | None:
    """Return what came of the C sources of an int8 model on random and extreme inputs, for a card.

    That is: ``inputs``, how many they were; ``beside``, whose kernels gave the right outputs; ``differing``, inputs
    whose outputs are others. None where no compiler is here or nothing that runs the model.

    Raises ``RuntimeError`` where the C does not give the right bits, or a runtime ends over the model.
    """
    if boards.missing("host"):
        return None
    inputs, wanted, whose = trials(model, _MOST_WORK)
    if wanted is None:
        return None
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.c").write_text(made.source, encoding="utf-8")
        (folder / "model.h").write_text(made.header, encoding="utf-8")
        outputs = boards.run(folder, "host", inputs).outputs
    differing = int((outputs != wanted).any(axis=1).sum())
    if differing and not (whose == "LiteRT" and rounds_otherwise(read(model))):
        raise RuntimeError(
            f"the C differs from {whose} on {differing} of {len(inputs)} inputs: please report this model"
        )
    return {"inputs": len(inputs), "beside": whose, "differing": differing}
