"""What is measured, against torch and by hand: gradients, the flow, distortions, Gram matrices, hits and counts."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedprune import measures, training
from fedprune.measures import _layers
from fedprune.measures.distortion import Curves
from fedprune.measures.flow import Thinned
from fedprune.measures.probes import Probes
from fedprune.training import probing
from fedprune.training.gradients import flow, gradients, squares
from fedprune.training.gram import gram
from fedprune.training.input_moments import input_moments
from fedprune.types import Model, Params
from fedprune.wire.payload import Payload

from . import measured_world

torch.set_num_threads(1)

SHAPE = (2, 7, 7)


def batches(shape: tuple[int, ...] = SHAPE, sizes: tuple[int, ...] = (4, 3)) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(size, *shape)).astype(np.float32), rng.integers(0, 3, size)) for size in sizes]


def normed() -> nn.Sequential:
    """Convolutions, batch norm with statistics that are not those of a fresh net, dropout, ReLU6, linear."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 4, 2, stride=2), nn.ReLU6(),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3),
    )  # fmt: skip
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    with torch.no_grad():
        net[1].weight.normal_()
        net[1].bias.normal_()
    return net


def unchanged(net: nn.Module, before: nn.Module) -> bool:
    pairs = zip(net.state_dict().values(), before.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


# -- gradients


def test_gradients_are_torchs_of_the_mean_loss() -> None:
    net = measured_world.plain()
    names = [name for name, _ in net.named_parameters()]
    found = gradients(net, batches(measured_world.SHAPE), names)
    inputs, labels = (np.concatenate(part) for part in zip(*batches(measured_world.SHAPE), strict=True))
    functional.cross_entropy(net(torch.from_numpy(inputs)), torch.from_numpy(labels)).backward()
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(found[name], parameter.grad, rtol=1e-5, atol=1e-7, err_msg=name)


def test_gradients_see_the_batchs_statistics_and_move_none_and_drop_nothing_out() -> None:
    net = normed()
    before, one = copy.deepcopy(net), batches(sizes=(6,))
    found = gradients(net, one, ["0.weight"])["0.weight"]
    assert unchanged(net, before)
    assert np.array_equal(gradients(net, one, ["0.weight"])["0.weight"], found)
    before.train()
    before[6].eval()
    functional.cross_entropy(before(torch.from_numpy(one[0][0])), torch.from_numpy(one[0][1])).backward()
    np.testing.assert_allclose(found, before[0].weight.grad, rtol=1e-4, atol=1e-6)


def test_pruned_weights_have_gradients_and_what_has_no_part_in_the_loss_has_none() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(98, 3))
    net.register_parameter("idle", nn.Parameter(torch.ones(2)))
    with torch.no_grad():
        net[1].weight[:, ::2] = 0
    found = gradients(net, batches(), ["1.weight", "idle"])
    assert np.all(found["1.weight"][:, ::2] != 0)
    assert np.array_equal(found["idle"], np.zeros(2, np.float32))
    assert not np.any(gradients(net, [], ["1.weight"])["1.weight"])


# -- flow


def test_flow_through_two_matrices_is_the_sum_over_paths() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    one, two = (np.abs(net[place].weight.detach().numpy().astype(np.float64)) for place in (1, 3))
    found = flow(net, (1, 2, 2), ["1.weight", "3.weight"])
    # R = 1ᵀ |W₂| |W₁| 1, biases left out
    np.testing.assert_allclose(found["1.weight"], np.repeat(two.sum(0)[:, None], 4, 1), rtol=1e-14)
    np.testing.assert_allclose(found["3.weight"], np.repeat(one.sum(1)[None], 2, 0), rtol=1e-14)


@pytest.mark.parametrize("factor", [1.0, 1e12])
def test_flow_is_conserved_from_layer_to_layer_whatever_clips_or_shifts(factor: float) -> None:
    net = normed()
    with torch.no_grad():
        for place in (0, 3, 7):
            net[place].weight *= factor
    before, names = copy.deepcopy(net), ["0.weight", "1.weight", "3.weight", "7.weight"]
    found = flow(net, SHAPE, names)
    weights = {name: np.abs(value.detach().numpy().astype(np.float64)) for name, value in net.named_parameters()}
    through = [float((weights[name] * found[name]).sum()) for name in names]
    assert through[0] > 0
    np.testing.assert_allclose(through, through[0], rtol=1e-10)
    assert unchanged(net, before)
    assert all(tensor.grad is None for tensor in net.parameters())


def test_nothing_flows_to_what_pruning_has_cut_off() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        net[3].weight[:, 1] = 0
    found = flow(net, (1, 2, 2), ["1.weight", "3.weight"])
    assert not np.any(found["1.weight"][1])
    assert np.all(found["1.weight"][[0, 2]] > 0)
    assert np.all(found["3.weight"] > 0)


# -- distortion


def test_outputs_move_by_what_the_pruned_weights_gave() -> None:
    it = measured_world.world(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
    device, weight = it.devices[0], it.model.params["1.weight"].astype(np.float64)
    inputs = device.parts.train.inputs.reshape(len(device.parts.train), -1)
    sizes = np.sort(np.abs(weight[weight != 0]))[::-1]
    kind, args = measures.find("distortion"), Curves(["1.weight"], (0.0, 0.25, 1.0))
    answer = kind.measure(device, kind.request(it.model, args), 5)
    for column, few in enumerate((0, len(sizes) // 4, len(sizes))):
        gone = np.where(np.abs(weight) >= (sizes[few - 1] if few else np.inf), 0, weight)
        moved = np.square(inputs @ gone.T).sum(1)
        assert answer.tensors["distortion/sum"][0, column] == pytest.approx(moved.sum(), rel=1e-4)
        assert answer.tensors["distortion/worst"][0, column] == pytest.approx(moved.max(initial=0), rel=1e-4)
    some = kind.measure(device, kind.request(it.model, args._replace(examples=7)), 0)
    assert some.values["examples"] == 7
    assert np.all(some.tensors["distortion/sum"] <= answer.tensors["distortion/sum"])


def test_noise_is_what_a_net_takes_and_the_same_on_every_device() -> None:
    device = measured_world.world(measured_world.plain).devices[0]

    def drawn(size: int, tokens: bool = False, targets: int = 0) -> tuple[np.ndarray, np.ndarray]:
        means = {"target_mean": (0.5,) * targets, "target_std": (2.0,) * targets}
        schema = SimpleNamespace(input_shape=(7, 5), classes=("a", "b", "c"), **means)
        given = SimpleNamespace(experiment=device.experiment, schema=schema, task=SimpleNamespace(tokens=tokens))
        batches = [*_layers.noise(given, "some", 200, size)]
        assert {len(inputs) for inputs, _ in batches} <= {size, 200 % size}
        return tuple(np.concatenate(each) for each in zip(*batches, strict=True))  # type: ignore[return-value]

    inputs, labels = drawn(64)
    assert np.array_equal(inputs, drawn(200)[0])
    assert (inputs.dtype, labels.shape) == (np.float32, (200,))
    assert abs(inputs.mean()) < 0.05
    assert inputs.var() == pytest.approx(1, abs=0.05)
    tokens, next_ones = drawn(64, tokens=True)
    assert tokens.dtype == np.int64
    assert {*tokens.flat} == {0, 1, 2}
    assert next_ones.shape == tokens.shape
    numbers = drawn(64, targets=3)[1]
    assert (numbers.shape, numbers.dtype) == ((200, 3), np.float32)


# -- Gram matrices


LAYERS = {
    "strided": nn.Conv2d(2, 3, (3, 2), stride=(2, 1), bias=False),
    "padded and dilated": nn.Conv2d(2, 3, 3, padding=(2, 1), dilation=2, bias=False),
    "same, of an even kernel": nn.Conv2d(2, 3, 4, padding="same", bias=False),
    "circular": nn.Conv2d(2, 3, 3, padding=2, padding_mode="circular", bias=False),
    "reflecting": nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", bias=False),
    "linear on the last axis": nn.Linear(7, 3, bias=False),
    "of a signal": nn.Conv1d(2, 3, 5, stride=2, padding=3, bias=False),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_a_gram_matrix_gives_the_products_of_a_layers_outputs(name: str) -> None:
    layer = LAYERS[name]
    seen = batches((2, 30) if isinstance(layer, nn.Conv1d) else SHAPE)
    (found, rows) = gram(nn.Sequential(layer), seen, ["0.weight"])["0.weight"]
    with torch.no_grad():
        outputs = [layer(torch.from_numpy(inputs)).double() for inputs, _ in seen]
    axis = -1 if isinstance(layer, nn.Linear) else 1
    flat = np.concatenate([each.movedim(axis, -1).reshape(-1, 3).numpy() for each in outputs])
    weight = layer.weight.detach().numpy().astype(np.float64).reshape(3, -1)
    assert rows == len(flat)
    np.testing.assert_allclose(weight @ found @ weight.T, flat.T @ flat, rtol=1e-5, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_moments_of_inputs_are_those_on_the_diagonal_of_a_gram_matrix(name: str) -> None:
    net = nn.Sequential(LAYERS[name])
    seen = [(inputs + 1, labels) for inputs, labels in batches((2, 30) if "signal" in name else SHAPE)]
    (squares, rows), found = (
        gram(net, seen, ["0.weight"])["0.weight"],
        input_moments(net, seen, ["0.weight"])["0.weight"],
    )
    assert found.examples == rows
    np.testing.assert_allclose(rows * (found.variance + found.mean**2), np.diag(squares), rtol=1e-9)
    assert np.all(found.variance >= 0)


def test_moments_of_a_grouped_convolution_are_of_one_group_after_the_other() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, (2, 3), groups=2, padding=1, stride=2))
    (inputs, labels), alone = batches((4, 7, 7))[0], nn.Conv2d(2, 3, (2, 3), padding=1, stride=2)
    found = input_moments(net, [(inputs + 1, labels)], ["0.weight"])["0.weight"]
    for group in range(2):
        part = [(inputs[:, 2 * group : 2 * group + 2] + 1, labels)]
        one = input_moments(nn.Sequential(alone), part, ["0.weight"])["0.weight"]
        assert np.array_equal(found.mean[12 * group :][:12], one.mean)
        assert np.array_equal(found.variance[12 * group :][:12], one.variance)


def test_what_is_not_called_as_a_linear_layer_has_no_moments() -> None:
    """The first of attention's; that behind it has its own, though torch computes such a layer at once if it can."""
    net = nn.Sequential(
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(32, 3)
    )
    inputs = np.random.default_rng(0).normal(size=(5, 4, 8)).astype(np.float32)
    names = [name for name, value in net.named_parameters() if value.ndim > 1]
    found = input_moments(net, [(inputs, np.zeros(5))], names)
    rows = {name.removeprefix("0."): each.examples for name, each in found.items()}
    behind = {"self_attn.out_proj.weight": 20, "linear1.weight": 20, "linear2.weight": 20, "2.weight": 5}
    assert rows == {"self_attn.in_proj_weight": 0, **behind}
    assert type(net[0].self_attn) is nn.MultiheadAttention  # which is as it was
    assert found["0.self_attn.in_proj_weight"].mean.shape == (8,)


def test_a_device_that_says_a_layer_has_other_groups_than_most_say_is_left_out() -> None:
    kind = measures.find("input_moments")

    def says(groups: int, value: float, examples: int = 2) -> Payload:
        both = np.full((2, groups, 1, 3), value, np.float32)
        return Payload({"examples": examples, "positions": {"w": 2 * examples}}, {"moments/w": both})

    answers = [says(1, 9.0), says(4, 1.0), says(4, 2.0), says(1, 0.0, 0), says(1, 0.0, 0)]
    for answer in answers:
        kind.check(answer, ["w"], Model({"w": np.zeros((4, 1, 3), np.float32)}))
    merged = kind.merge(answers, ["w"])
    assert merged["w/mean"].tolist() == [[[1.5] * 3]] * 4
    assert merged["w/variance"].tolist() == [[[1.5 + 0.25] * 3]] * 4
    assert merged["w/positions"] == 8


def test_squares_are_of_the_gradients_of_single_examples_batch_norm_at_rest() -> None:
    net, seen = normed(), batches()
    before, names = copy.deepcopy(net).eval(), ["0.weight", "1.bias", "7.weight"]
    found = squares(net, seen, names)
    assert unchanged(net, before)
    expected = {name: np.zeros(value.shape) for name, value in found.items()}
    for one, label in zip(*(np.concatenate(part) for part in zip(*seen, strict=True)), strict=True):
        before.zero_grad()
        functional.cross_entropy(before(torch.from_numpy(one[None])), torch.tensor([label])).backward()
        for name in names:
            expected[name] += before.get_parameter(name).grad.numpy().astype(np.float64) ** 2 / 7
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-12, err_msg=name)


def test_probes_are_slopes_along_the_drawn_directions_and_keep_no_graph() -> None:
    it, kind = measured_world.world(measured_world.normed), measures.find("probes")
    args = Probes(["1.weight", "4.weight"], 1e-4, 3, seed=6)
    net, device = measured_world.normed().eval(), it.devices[0]
    training.load_state(net, it.model.params)
    examples = device.parts.train
    functional.cross_entropy(net(torch.from_numpy(examples.inputs)), torch.from_numpy(examples.labels)).backward()

    def none(saved: torch.Tensor) -> None:
        pytest.fail("something is kept for a backward pass")

    with torch.autograd.graph.saved_tensors_hooks(none, none):
        found = kind.measure(device, kind.request(it.model, args), 5).tensors["probes/slopes"]
    for row, name in enumerate(args.layers):
        grad = net.get_parameter(name).grad.numpy().astype(np.float64)
        for probe in range(3):
            along = probing.direction(6, name, probe, it.model.params[name])
            assert set(np.unique(along)) == {-1, 0, 1}
            assert np.array_equal(along != 0, it.model.params[name] != 0)
            assert found[row, probe] == pytest.approx((grad * along).sum(), rel=1e-3, abs=1e-5)


def test_a_gram_matrix_is_that_of_evaluation_and_symmetric_as_merged() -> None:
    net = normed()
    before = copy.deepcopy(net)
    seen: list[torch.Tensor] = []
    before.eval()[7].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].detach().double()))
    for inputs, _ in batches():
        before(torch.from_numpy(inputs))
    expected = torch.cat(seen).numpy()
    found, rows = gram(net, batches(), ["7.weight"])["7.weight"]
    assert rows == 7
    np.testing.assert_allclose(found, expected.T @ expected, rtol=1e-5, atol=1e-6)
    assert unchanged(net, before)

    world = measured_world.world(measured_world.plain)
    kind, names = measures.find("gram"), ("2.weight", "5.weight")
    answers = [kind.measure(device, kind.request(world.model, names), 0) for device in world.devices]
    merged = kind.merge(answers, names)
    for name in names:
        assert np.array_equal(merged[name], merged[name].T)
        assert np.linalg.eigvalsh(merged[name]).min() > -1e-3
    assert merged["5.weight/positions"] == sum(measured_world.SIZES)
    assert merged["2.weight/positions"] == 4 * sum(measured_world.SIZES)
    assert merged["2.weight"].shape == (16, 16)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0.weight", "'0.weight' is of a convolution of several groups, expected one"),
        ("1.weight", "'1.weight' is of BatchNorm2d, expected the weight of Linear, Conv1d or Conv2d"),
        ("2.bias", "'2.bias' is of Conv2d, expected"),
    ],
)
def test_other_weights_have_no_gram_matrix(name: str, expected: str) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    with pytest.raises(ValueError, match=expected):
        gram(net, batches(), [name])


def test_an_answer_may_be_larger_than_its_layer() -> None:
    model = Model({"1.weight": np.zeros((2, 500), np.float32)})
    triangle = np.zeros(500 * 501 // 2, np.float32)
    kind = measures.find("gram")
    kind.check(Payload({"examples": 1, "positions": {"1.weight": 1}}, {"gram/1.weight": triangle}), ["1.weight"], model)
    assert triangle.nbytes <= kind.answers(["1.weight"], model) < triangle.nbytes + 1000


@pytest.mark.parametrize("name", ["gradients", "flow", "gram"])
def test_a_device_refuses_to_measure_buffers(name: str) -> None:
    world, kind = measured_world.world(measured_world.normed), measures.find(name)
    args = Thinned if name == "flow" else tuple
    kind.accepts(world.slots, kind.request(world.model, args(["1.weight"])))
    with pytest.raises(ValueError, match="no parameters of the model"):
        kind.accepts(world.slots, kind.request(world.model, args(["2.running_mean"])))


# -- hits and counts


@pytest.fixture(params=["train", None])
def judged(request: pytest.FixtureRequest) -> tuple[str | None, float, Params]:
    """(part asked for, share of hits by hand, evidence)."""
    world, kind = measured_world.world(measured_world.plain), measures.find("accuracy")
    asked = kind.request(world.model, request.param)
    answers = [kind.measure(device, asked, 0) for device in world.devices]
    net = measured_world.plain()
    with torch.no_grad():
        training.load_state(net, world.model.params)
    examples = world.together.parts.train if request.param else world.together.parts.development
    right = net(torch.from_numpy(examples.inputs)).argmax(1).numpy() == examples.labels
    return request.param, float(right.mean()), kind.merge(answers, request.param)


def test_accuracy_is_the_share_of_hits_on_the_part_asked_for(judged: tuple[str | None, float, Params]) -> None:
    part, share, found = judged
    assert found["accuracy"] == share
    assert 0 < share < 1
    assert found["examples"] == (sum(measured_world.SIZES) if part else 3 * measured_world.DEVELOPMENT)
    assert measures.part_of(measures.find("accuracy"), part) == (part or "development")


def test_accuracy_of_no_examples_is_no_evidence() -> None:
    kind, nothing = measures.find("accuracy"), Payload({"examples": 0, "hits": 0})
    some = Payload({"examples": 4, "hits": 3})
    kind.check(nothing, None, measured_world.world(measured_world.plain).model)
    assert kind.merge([nothing], None) == {}
    assert kind.merge([nothing, some], None) == {"accuracy": 0.75, "examples": 4}


def test_counts_are_those_of_the_training_labels() -> None:
    world, kind = measured_world.world(measured_world.plain), measures.find("counts")
    answers = [kind.measure(device, kind.request(world.model, 3), 0) for device in world.devices]
    found = kind.merge(answers, 3)
    assert found["classes"].tolist() == [int((world.together.parts.train.labels == label).sum()) for label in range(3)]
    assert found["examples"] == sum(measured_world.SIZES)


def test_ranges_are_the_extremes_of_all_training_parts() -> None:
    world, kind = measured_world.world(measured_world.plain), measures.find("ranges")
    graph = measured_world.CASES["ranges"].args(world.model)
    asked = kind.request(world.model, graph)
    found = kind.merge([kind.measure(device, asked, 0) for device in world.devices], graph)["ranges"]
    inputs = world.together.parts.train.inputs
    assert tuple(found[list(graph.shapes).index(graph.input)]) == (inputs.min(), inputs.max())
