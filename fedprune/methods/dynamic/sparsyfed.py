"""SparsyFed: weights that stay near 0, pruned before they travel (Guastella et al., ICLR 2025, arXiv 2504.05153)."""

from functools import partial

from fedprune.methods.layers import Shapes, dense, density_in_range, largest, masked
from fedprune.pruning import masks
from fedprune.training.powerpropagation import powered
from fedprune.training.thin_inputs import kept_shares, thin_inputs
from fedprune.types import Found, Local, Method, Model, Params


def sparsyfed(layers: Shapes, *, density: float, beta: float = 1.25, stop: int = 100) -> Method:
    """Train w with θ = sign(w) |w|^β, and send the largest |θ| of all layers together, ``density`` of them (alg. 1).

    In a step the gradient of a layer's weights sees the largest of its inputs alone, a share of them as large as that
    of the layer's weights that are not 0. The server averages what devices send, zeros too, which is the paper's mean
    of their updates; what no device kept is gone, since a w of 0 does not move where β is above 1, so that masks follow
    what devices agree on. The model, the union of their masks, is larger than ``density`` until they do; after round
    ``stop`` the server prunes it to that, which the paper leaves open. The first round is dense, as there. What travels
    is θ, where the authors average w; the share of inputs is that of the round's first weights.
    """
    names = tuple(layers)
    top = largest(density_in_range(density))
    shares = partial(kept_shares, names)

    def sends(params: Params, memory: Params) -> Params:
        return masks.apply(params, top.update(masks.ones_like(layers), {"weight": params}, 0))

    def act(model: Model, found: Found, round: int) -> Model:
        if not 1 <= round <= stop:
            return model
        alive = {name: model.params[name] != 0 for name in layers}
        return masked(model, top.update(alive, {"weight": model.params}, 0) if round == stop else alive)

    local = Local(optimiser=powered(names, beta), around=lambda model: thin_inputs(model, shares), sends=sends)
    return Method(dense(layers), local=local, act=act)
