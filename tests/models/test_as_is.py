"""A user's net as it is: what it computes stays, whatever is made plain of it; and which of its weights are pruned."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from fedprune import models
from fedprune.graph.coupling import couple, coupled_channels
from fedprune.graph.layers import Layers, dense_ends, layers
from fedprune.graph.shared import second_names, unique_state
from fedprune.models import ModelError, as_is, build
from fedprune.training import load_state, state_of, train
from fedprune.training.evidence import bn_statistics, top_gradients
from fedprune.training.lean import Lean
from fedprune.types import Sgd

FOLDABLE = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "old weight norm": lambda: weight_norm(nn.Linear(4, 4)),
    "old spectral norm": lambda: spectral_norm(nn.Linear(4, 4)),
    "pruned by torch": lambda: prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5),
    "a recurrent layer's": lambda: weight_norm(nn.GRUCell(4, 4), "weight_hh"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FOLDABLE)
@pytest.mark.parametrize("moves", [True, False])
def test_a_parametrisation_becomes_the_weight_that_it_computes(kind: str, moves: bool) -> None:
    net, inputs = nn.Sequential(FOLDABLE[kind](), nn.ReLU()).requires_grad_(moves), torch.randn(3, 4)
    expected, training = net.eval()(inputs), net.train().training
    (said,) = as_is.made_plain(net)
    assert said.endswith("folded, trained as plain weights")
    assert net.training == training
    torch.testing.assert_close(net.eval()(inputs), expected)
    shapes = {name: tuple(value.shape) for name, value in net.named_parameters()}
    assert shapes[next(name for name in shapes if "weight" in name)] == (4, 4) or "GRU" in type(net[0]).__name__
    assert not any(name.endswith(("_g", "_v", "_orig", "original", "original0")) for name in net.state_dict())
    assert {parameter.requires_grad for parameter in net.parameters()} == {moves}
    assert as_is.made_plain(net) == ()  # once


def tied() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    net[2].weight = nn.Parameter(net[0].weight)  # the same memory, by another parameter
    as_is.made_plain(net)
    return net


def test_a_shared_parameter_is_there_once() -> None:
    net = tied()
    assert net[2].weight is net[0].weight
    assert second_names(net) == {"2.weight": "0.weight"}
    assert [*unique_state(net)] == ["0.weight", "0.bias", "2.bias", "4.weight", "4.bias"] == [*state_of(net)]
    assert layers(net, torch.zeros(2, 4)) == Layers(
        {"0.weight": (4, 4), "4.weight": (3, 4)}, "0.weight", "4.weight", ()
    )
    assert [group.name for group in coupled_channels(net, torch.zeros(1, 4))] == []
    load_state(net, {name: np.ones_like(value) for name, value in state_of(net).items()})
    assert net[2].weight.tolist() == [[1.0] * 4] * 4


@pytest.mark.parametrize("lean", [Lean(), Lean(sparse=True), Lean(recompute=True)])
def test_a_shared_parameter_is_trained_and_pruned_once(lean: Lean) -> None:
    """As torch.optim has it: one step of SGD on one gradient, the sum of both uses'."""
    net, rng = tied(), np.random.default_rng(0)
    mask = rng.random((4, 4)) < 0.5
    with torch.no_grad():
        net[0].weight.mul_(torch.from_numpy(mask))
    other, inputs, labels = copy.deepcopy(net), rng.normal(size=(8, 4)).astype(np.float32), np.arange(8) % 3
    train(net, [(inputs, labels)], Sgd(0.1, 0.0), {"0.weight": mask}, lean=lean)
    nn.functional.cross_entropy(other(torch.from_numpy(inputs)), torch.from_numpy(labels)).backward()
    step = other[0].weight - 0.1 * other[0].weight.grad * torch.from_numpy(mask)
    torch.testing.assert_close(net[0].weight, step)
    assert net[0].weight is net[2].weight


def test_a_frozen_batch_norm_rests_whatever_is_done_to_the_net() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[:2].requires_grad_(False)
    as_is.made_plain(net)
    assert {"1.running_mean", "0.weight"} <= {*as_is.frozen(net)}
    assert "3.running_mean" not in as_is.frozen(net)
    before, rng = state_of(net), np.random.default_rng(0)
    inputs, labels = rng.normal(3, 2, size=(8, 4)).astype(np.float32), np.arange(8) % 2
    train(net, [(inputs, labels)], Sgd(0.1))
    said = bn_statistics(net, [(inputs, labels)])
    masks = {"2.weight": np.zeros((4, 4), np.bool_)}
    top_gradients(net, inputs, labels, masks, {"2.weight": 3})
    after = state_of(net)
    assert all(np.array_equal(after[name], before[name]) for name in as_is.frozen(net))
    assert not np.array_equal(after["3.running_mean"], before["3.running_mean"])
    assert np.array_equal(said["1"].mean, before["1.running_mean"])
    assert [p.requires_grad for p in net[:2].parameters()] == [False] * 4
    assert copy.deepcopy(net).train()[1].training is False


@pytest.mark.parametrize("given", [lambda x: (x, 2 * x), lambda x: {"aux": 2 * x, "out": x}, lambda x: [[x], x * 3]])
def test_the_first_of_several_outputs_is_the_models(given: object) -> None:
    class Returns(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return given(x)  # type: ignore[operator]

    net, inputs = Returns(), torch.randn(2, 3)
    as_is.made_plain(net)
    assert torch.equal(net(inputs), inputs)
    assert "the rest is left out" in as_is.also_returned(net, inputs)
    plain = nn.Identity()
    as_is.made_plain(plain)
    assert as_is.also_returned(plain, inputs) == ""


def all_frozen(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes)).requires_grad_(False)


def masked(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(input_shape[0], classes)
            self.register_buffer("mask", torch.full((classes, classes), -torch.inf).triu(1))
            self.register_buffer("finite", torch.zeros(classes))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.linear(x)[:, None] + self.mask, -1).sum(1) + self.finite

    return Masked()


def test_a_mask_with_infinities_is_the_codes_own_and_no_part_of_a_state() -> None:
    name = f"{__name__}:masked"
    assert (
        {*models.slots(name, (4,), 3)}
        == {*build(name, (4,), 3).state_dict()}
        == {"linear.weight", "linear.bias", "finite"}
    )


def test_a_net_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ModelError, match="every parameter is frozen"):
        build(f"{__name__}:all_frozen", (1, 2, 2), 3)


class Sequences(nn.Module):
    """A language model in small: one weight embeds tokens and gives their logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8, sparse=True)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.ConvTranspose1d(8, 8, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(1, 5, 8))
        self.spare = nn.Linear(3, 3)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.rnn(self.embedding(tokens.long()) + self.place)[0]
        x = self.attention(x, x, x)[0]
        x = self.up(x.transpose(1, 2)).mean(2)
        return self.out(x)  # type: ignore[no-any-return]


def test_every_kind_of_weight_is_found_in_the_order_in_which_it_is_read() -> None:
    net = Sequences()
    as_is.made_plain(net)
    found = layers(net, torch.zeros(2, 5))
    assert [*found.shapes] == [
        "embedding.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "attention.in_proj_weight",
        "attention.out_proj.weight", "up.weight",
    ]  # fmt: skip
    assert (found.first, found.last) == ("embedding.weight",) * 2
    assert found.unread == ("spare.weight", "spare.bias")
    assert net.spare.weight.requires_grad
    assert couple(net, torch.zeros(1, 5)).groups == ()  # what cannot be followed is no error


@pytest.mark.parametrize("lean", [Lean(), Lean(sparse=True), Lean(recompute=True), Lean(micro_batch=2)])
def test_recurrent_attention_and_embedding_weights_are_trained_under_masks(lean: Lean) -> None:
    torch.manual_seed(0)
    net, rng = Sequences(), np.random.default_rng(0)
    as_is.made_plain(net)
    shapes = layers(net, torch.zeros(2, 5)).shapes
    masks = {name: rng.random(shape) < 0.3 for name, shape in shapes.items()}
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(torch.from_numpy(mask))
    other, before = copy.deepcopy(net), state_of(net)
    batch = [(rng.integers(0, 20, (6, 5)).astype(np.float32), np.arange(6))] * 3
    train(net, batch, Sgd(0.1), masks, lean=lean)
    train(other, batch, Sgd(0.1), masks)
    for name, value in state_of(net).items():
        np.testing.assert_allclose(value, state_of(other)[name], rtol=1e-4, atol=1e-6, err_msg=name)
        assert np.array_equal(value, before[name]) == name.startswith("spare"), name
    assert all(not np.any(state_of(net)[name][~mask]) for name, mask in masks.items())
    assert net.rnn._flat_weights[0] is net.rnn.weight_ih_l0


SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=6)


@given(SIZES, st.sampled_from([None, True, False]), st.sampled_from([None, True, False]))
def test_the_ends_are_dense_unless_asked_or_large(sizes: list[int], first: bool | None, last: bool | None) -> None:
    held = {f"layer{index}": size for index, size in enumerate(sizes)}
    names = [*held]
    dense = dense_ends(Layers({}, names[0], names[-1], ()), held, first=first, last=last)
    assert {*dense} <= {names[0], names[-1]}
    if first is not None and len(names) > 1:
        assert (names[0] in dense) == (not first)
    if last is not None and len(names) > 1:
        assert (names[-1] in dense) == (not last)
    if first is None and last is None:
        assert sum(held[name] for name in dense) <= sum(sizes) / 2
        if len(names) > 2 and held[names[0]] + held[names[-1]] <= sum(sizes) / 2:
            assert dense == (names[0], names[-1])


@pytest.mark.parametrize(
    ("sizes", "dense"),
    [
        ([1280, 256], ()),  # 20 → 64 → 4: nothing between
        ([640000, 4096, 128], ("c",)),  # 10,000 → 64 → 64 → 2: the first holds 99 %
        ([144, 2304, 64], ("a", "c")),  # 208 of 2,512
        ([100, 50, 60], ("c",)),  # 160 of 210 is most; 60 alone is not
    ],
)
def test_what_stays_dense_by_default_worked_by_hand(sizes: list[int], dense: tuple[str, ...]) -> None:
    held = dict(zip("abc" if len(sizes) == 3 else "ac", sizes, strict=True))
    assert dense_ends(Layers({}, "a", "c", ()), held, first=None, last=None) == dense


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("digits_cnn", (1, 8, 8)), ("dscnn", (1, 49, 10)), ("dscnn", (3, 32, 32)), ("har_cnn", (9, 128)),
        ("mobilenet", (3, 96, 96)), ("resnet8", (3, 32, 32)), ("resnet20", (3, 32, 32)), ("vgg11", (3, 32, 32)),
    ],
)  # fmt: skip
def test_of_the_reference_nets_first_and_last_stay_dense(name: str, shape: tuple[int, ...]) -> None:
    net = build(name, shape, 10)
    read = layers(net, torch.zeros(2, *shape))
    modules = dict(net.named_modules())
    sizes = {
        key: int(np.prod(value))
        for key, value in read.shapes.items()
        if getattr(modules[key.removesuffix(".weight")], "groups", 1) == 1
    }
    assert dense_ends(read, sizes, first=None, last=None) == (read.first, read.last)
    assert read.unread == ()
