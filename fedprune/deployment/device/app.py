"""The app of a fleet's device: the phases of a simulated one, and it takes models into use."""

from flwr.clientapp import ClientApp

from fedprune.deployment.device import deploy
from fedprune.federated.link.client import client_app


def device_app() -> ClientApp:
    """A ClientApp of every phase, and of phase deploy."""
    return client_app({deploy.ROUTE: deploy.device})
