"""The device's Flower app: what a SuperNode, or a simulated one, runs."""

from fedprune.federated.link.client import client_app

app = client_app()
