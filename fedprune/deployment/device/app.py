"""The app of a fleet's device: the phases of a simulated one, and it takes models into use."""

import os
from collections.abc import Iterator

from flwr.app import Context
from flwr.clientapp import ClientApp

from fedprune.deployment.device import deploy
from fedprune.federated.link.client import client_app


def device_app() -> ClientApp:
    """A ClientApp of every phase, and of phase deploy."""
    return client_app({deploy.ROUTE: deploy.device})


client = device_app()


@client.lifespan()
def _models_dir(context: Context) -> Iterator[None]:
    """What a device's node-config says of its folder of models, told to phase deploy, which sees no context."""
    if folder := context.node_config.get("models-dir"):
        os.environ[deploy.MODELS_DIR] = str(folder)  # a message has a process of its own
    yield
