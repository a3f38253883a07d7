"""Parts of a model: the model as those see it that hold one, and the statistics that each has of its own."""

from fedprune.pruning import masks
from fedprune.types import Model, Params

_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


def view(model: Model, part: str) -> Model:
    """The model as the devices of a part see it: its masks, its statistics, its weights; ``""`` is the whole.

    >>> import numpy as np
    >>> from fedprune.types import Part
    >>> half = Part({}, {"w": np.array([True, False])})
    >>> view(Model({"w": np.array([3.0, 4.0])}, parts={"half": half}), "half").params["w"]
    array([3., 0.])
    """
    if not part:
        return model
    own = model.parts[part]
    return Model(masks.apply({**model.params, **own.params}, own.masks), own.masks, model.memory)


def is_statistic(name: str) -> bool:
    """Whether a tensor is a running statistic of a batch norm, by its name.

    >>> is_statistic("1.running_var"), is_statistic("1.weight")
    (True, False)
    """
    return name.endswith(_STATISTICS)


def statistics(params: Params) -> Params:
    """The running statistics of batch norms among a model's tensors.

    They are a part's own, since at another density activations are distributed differently.

    >>> list(statistics({"0.weight": None, "1.running_var": None}))
    ['1.running_var']
    """
    return {name: value for name, value in params.items() if is_statistic(name)}
