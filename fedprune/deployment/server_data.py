"""Whether the server has the data that an experiment wants of it, found out before a run is submitted."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

from fedprune.deployment.fleet_folder import FleetError
from fedprune.experiment import Experiment

_HUB = "https://huggingface.co"
_PATIENCE_S = 3.0  # its own client tries for half a minute


def there(experiment: Experiment, source: str, data_dir: Path | None) -> None:
    """FleetError, in one line that begins with ``source``, where a data set that lies in files is not on this machine.

    What devices hold alone, and what comes with a package or a loader of one's own, is not looked at.
    """
    from fedprune.data import DataError
    from fedprune.data.catalogue import FROM_FILES
    from fedprune.data.hub import UNFAITHFUL
    from fedprune.data.loading import DATA_DIR, load_dataset
    from fedprune.tasks import TaskError

    name, public_dir = experiment.data.name, experiment.data.public_dir
    if public_dir and not Path(public_dir).is_dir():
        raise FleetError(
            f"{source}: data.public_dir: {public_dir} is no folder; give that of the server's own examples"
        )
    if experiment.data.partition == "own" or name not in FROM_FILES:
        return
    given = data_dir or os.environ.get(DATA_DIR)
    if not given and (name in UNFAITHFUL or not _online()):
        more = "" if name in UNFAITHFUL else ", and nothing is fetched without a network"
        raise FleetError(
            f"{source}: data.name: {name} lies in files, and neither --data-dir nor {DATA_DIR} says where on this "
            f"server{more}; add --data-dir DIR"
        )
    try:
        load_dataset(name, str(given) if given else None, experiment.task)
    except (DataError, TaskError) as error:
        raise FleetError(f"{source}: data: {error}") from error


def _online() -> bool:
    where = os.environ.get("HF_ENDPOINT") or _HUB
    try:
        with urllib.request.urlopen(urllib.request.Request(where, method="HEAD"), timeout=_PATIENCE_S):
            return True
    except urllib.error.HTTPError:  # it answers
        return True
    except (OSError, ValueError):
        return False
