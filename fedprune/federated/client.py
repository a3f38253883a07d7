"""The device's side: a Flower ClientApp that routes each message to its phase's device half."""

from __future__ import annotations

import functools
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedprune import experiment as _experiment
from fedprune.federated import device as _device
from fedprune.federated.device import Device
from fedprune.federated.payload import Payload, from_records, to_records
from fedprune.federated.phases import candidates, evaluate, grow, profile, train

ROUTES: dict[str, Callable[[Device, Payload], Payload]] = {
    profile.ROUTE: profile.device,
    candidates.STATISTICS: candidates.statistics_device,
    candidates.LOSS: candidates.loss_device,
    train.ROUTE: train.device,
    grow.ROUTE: grow.device,
    evaluate.ROUTE: evaluate.device,
}
"""Flower's message type -> device half. A new phase is a file and a line here."""


def client_app() -> ClientApp:
    """A ClientApp with a route for every phase."""
    app = ClientApp()
    for route, half in ROUTES.items():
        category, _, action = route.partition(".")
        register = {"train": app.train, "evaluate": app.evaluate, "query": app.query}[category]
        register(*([action] if action else []))(functools.partial(_handle, half))
    return app


def _handle(half: Callable[[Device, Payload], Payload], message: Message, context: Context) -> Message:
    request = from_records(message.content)
    reply = half(_this_device(str(request.values["experiment"]), context), request)
    return Message(to_records(reply, request.masks), reply_to=message)


def _this_device(text: str, context: Context) -> Device:
    partition = context.node_config.get("partition-id")
    if partition is None:
        raise ValueError("this device does not know which part of the data is its own: node-config wants partition-id")
    folder = context.node_config.get("data-dir") or context.run_config.get("data-dir")
    return _open(text, int(partition), str(folder) if folder else None)


@functools.lru_cache(maxsize=1024)
def _open(text: str, index: int, data_dir: str | None) -> Device:
    experiment = _experiment.from_json(text)
    members = _device.federation(experiment, data_dir).devices
    if not 0 <= index < len(members):
        raise ValueError(f"partition-id {index} is outside the {len(members)} devices of {experiment.name}")
    return Device(index, experiment, _device.load_dataset(experiment.data.name, data_dir), members[index])
