"""Whether a method can be private: what its devices send is noised, or says nothing of their data."""

from __future__ import annotations

from collections.abc import Collection

from fedprune import measures
from fedprune.experiment import Experiment, ExperimentError
from fedprune.types import Method, Params


def allow(experiment: Experiment, kinds: Collection[str], unnoised: Collection[str], source: str) -> None:
    """ExperimentError, in one line beginning with ``source``, where a private experiment's method cannot be private.

    ``kinds`` are those of the evidence that it asks for, ``unnoised`` tensors that its devices send without noise.
    """
    if not experiment.privacy.epsilon:
        return
    name, or_off = experiment.method["name"], "or leave privacy.epsilon out"
    exact = [kind for kind in kinds if not measures.find(kind).private]
    if other := [kind for kind in exact if kind not in ("bn_statistics", "losses")]:
        what = other[0].replace("top_", "").replace("_", " ")
        why = f"devices send {name} {what} without noise; choose another, {or_off}"
        raise ExperimentError(f"{source}: method.name: {why}")
    if exact:
        raise ExperimentError(
            f"{source}: method: devices compare the candidates of {name} without noise; ask for one, {or_off}"
        )
    if unnoised:
        why = f"what {name} sends, such as {min(unnoised)}, no noise covers; choose another, {or_off}"
        raise ExperimentError(f"{source}: method.name: {why}")


def unnoised(method: Method, params: Params) -> set[str]:
    """Tensors that devices send and that are no trained ones, to which noise could be added: votes, for example."""
    if method.local.sends is None:
        return set()
    memory = method.start(params).memory
    own = {name: memory[name] for name in method.local.trains}
    sent = method.local.sends(params, own)
    return {name for name, value in sent.items() if name not in params and (name not in own or value.dtype.kind != "f")}
