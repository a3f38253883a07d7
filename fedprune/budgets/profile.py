"""What a device has, measured in the process that will train: memory it may use, cores, speed, what trains."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

from fedprune.budgets import natively
from fedprune.experiment import ExperimentError
from fedprune.training import native

_SECONDS = 0.3
RUNTIME_BYTES = 300_000_000
"""`Profile.runtime_bytes` of a client on 64-bit Linux with torch 2.13 for CPUs: what a plan reckons with."""

_UNLIMITED = 2**60
"""A limit as large as this (cgroup v1 writes one) is none."""


class Profile(NamedTuple):
    """A device, as a plan needs to know it."""

    memory_bytes: int
    """What this process may use in all, what it uses already included."""
    cores: int
    """That this process may use."""
    macs_per_second: float
    """Multiply-adds a second of one thread, forwards and backwards."""
    runtime_bytes: int
    """Resident memory of this process before it holds a model: python, the trainer, and what a first step loads."""
    compiled: bool
    """Whether it has the compiled trainer; without it torch trains, and is what was measured."""


def measure(*, torch: bool = False) -> Profile:
    """The profile of this device, in about a second; to be called before it holds a model.

    By ``torch`` where that is asked for, or where there is no compiled trainer.
    ExperimentError where it has nothing to train with.
    """
    import psutil

    compiled = native.installed() and not torch
    if not compiled and importlib.util.find_spec("torch") is None:
        raise ExperimentError("this device has neither the compiled trainer nor torch; install fedprune[device-torch]")
    if not compiled:
        _first_step()
    resident = int(psutil.Process().memory_info().rss)
    speed = natively.macs_per_second(_SECONDS) if compiled else _macs_per_second()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Profile(memory_bytes(), cores, speed, resident, compiled)


def memory_bytes() -> int:
    """Bytes that this process may use in all: its resident set, and the least of what is free by any limit.

    Limits are the physical memory available, those of control groups (versions 1 and 2), and RLIMIT_AS.
    """
    import psutil

    used = psutil.Process().memory_info()
    free = [int(psutil.virtual_memory().available), *_cgroup_free(), *_address_space_free(int(used.vms))]
    return int(used.rss) + max(0, min(free))


def _cgroup_free(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    # Every group from the process's own to the root may have a limit; inside a container the root is the own one.
    places = {(root, "memory.max", "memory.current"), _v1(root)}
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folders = (root / path.strip("/"), *(root / path.strip("/")).parents)
            places |= {(f, "memory.max", "memory.current") for f in folders if f.is_relative_to(root)}
        elif "memory" in controllers.split(","):
            places.add(_v1(root, path.strip("/")))
    free = []
    for folder, limit_file, usage_file in places:
        limit, usage = _text(folder / limit_file).strip(), _text(folder / usage_file).strip()
        if limit.isdecimal() and usage.isdecimal() and int(limit) < _UNLIMITED:
            free.append(int(limit) - int(usage) + _reclaimable(folder))
    return free


def _v1(root: Path, path: str = "") -> tuple[Path, str, str]:
    return root / "memory" / path, "memory.limit_in_bytes", "memory.usage_in_bytes"


def _reclaimable(folder: Path) -> int:
    # A group's usage counts files that were read; the kernel drops those before it refuses memory.
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdecimal():
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _address_space_free(used: int) -> list[int]:
    if sys.platform == "win32":
        return []
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return [] if soft == resource.RLIM_INFINITY else [soft - used]


def _first_step() -> None:
    """One step of a small net, which loads what a first step loads: code, kernels, libraries' own memory."""
    import numpy as np
    import torch

    from fedprune import models, training
    from fedprune.types import Sgd

    torch.set_num_threads(1)
    model = models.build("resnet8", (3, 16, 16), 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = (np.zeros((8, 3, 16, 16), np.float32), np.zeros(8, np.int64))
    training.train(model, [batch], Sgd(0.1))


def _macs_per_second() -> float:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layer = torch.nn.Conv2d(32, 32, 3, padding=1)
        inputs = torch.ones(8, 32, 16, 16, requires_grad=True)
        step_macs = 3 * 8 * 16 * 16 * layer.weight.numel()  # forwards once, backwards to the inputs and to the weights

        def step() -> None:
            torch.autograd.grad(layer(inputs).sum(), [inputs, *layer.parameters()])

        step()  # the first one loads kernels
        started, steps = time.perf_counter(), 0
        while (taken := time.perf_counter() - started) < _SECONDS or not steps:
            step()
            steps += 1
    finally:
        torch.set_num_threads(threads)
    return step_macs * steps / taken
