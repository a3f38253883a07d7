"""The reference nets against their published sizes, and the door against nets that are not what they should be."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from fedprune import graph as graphs
from fedprune.budgets import compute
from fedprune.models import CATALOGUE, ModelError, build

torch.set_num_threads(1)

# name, input shape, classes, weights, trainable parameters, multiply-accumulates, published total or None.
# A published Keras total has also the moving statistics of batch norm and a bias to each convolution.
NETS = [
    ("digits_cnn", (1, 8, 8), 10, 24_000, 24_298, 484_080, None),
    ("dscnn", (1, 49, 10), 12, 22_016, 23_180, 2_656_768, 24_908),
    ("har_cnn", (9, 128), 6, 42_528, 43_046, 1_536_384, None),
    ("mobilenet", (3, 96, 96), 2, 208_112, 213_586, 7_489_664, 221_794),
    ("mobilenet", (3, 32, 32), 2, 208_112, 213_586, 832_640, None),
    ("resnet8", (3, 32, 32), 10, 77_360, 78_042, 12_501_632, None),
    ("resnet18", (3, 32, 32), 10, 11_164_352, 11_173_962, 555_422_720, None),
    ("resnet20", (3, 32, 32), 10, 270_896, 272_474, 40_813_184, None),
    ("shapes_unet", (3, 32, 32), 4, 65_748, 66_268, 14_241_792, None),
    ("vgg11", (3, 32, 32), 10, 9_222_848, 9_228_362, 152_769_536, None),
]

# Multiply-accumulates by hand: what each step or token takes, times their number; of attention also tokens by tokens.
OF_STEPS = [
    ("char_gru", (64,), 62, 44_800, 45_438, 64 * (3 * 96 * (32 + 96) + 96 * 62)),
    ("har_gru", (9, 128), 6, 27_936, 28_582, 32 * (32 * 9 * 8 + 144 * (32 + 48) + 144 * (48 + 48)) + 48 * 6),
    (
        "keyword_transformer", (1, 49, 10), 40, 42_384, 43_672,
        25 * (48 * 10 * 5 + 2 * (4 * 48 * 48 + 2 * 48 * 96)) + 2 * 2 * 25 * 25 * 48 + 48 * 40,
    ),
    (
        "vit", (3, 32, 32), 10, 138_880, 141_834,
        64 * (48 * 64 + 4 * (4 * 64 * 64 + 2 * 64 * 128)) + 4 * 2 * 64 * 64 * 64 + 64 * 10,
    ),
    (
        "swin", (3, 32, 32), 10, 219_196, 223_670,
        256 * 12 * 24 + sum(
            2 * (tokens * (4 * width * width + 2 * width * 2 * width) + 2 * tokens * 16 * width)
            for tokens, width in ((256, 24), (64, 48), (16, 96))
        ) + 64 * 96 * 48 + 16 * 192 * 96 + 96 * 10,
    ),
]  # fmt: skip


def test_every_net_of_the_catalogue_is_counted() -> None:
    assert {net[0] for net in (*NETS, *OF_STEPS)} == set(CATALOGUE)


@pytest.mark.parametrize(("name", "shape", "classes", "weights", "parameters", "macs"), OF_STEPS)
def test_sizes_of_nets_of_steps(
    name: str, shape: tuple[int, ...], classes: int, weights: int, parameters: int, macs: int
) -> None:
    model = build(name, shape, classes)
    assert sum(p.numel() for p in model.parameters() if p.ndim > 1) == weights
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert compute.macs(graphs.trace(model.eval(), torch.zeros(1, *shape))) == macs


@pytest.mark.parametrize(("name", "shape", "classes", "weights", "parameters", "macs", "published"), NETS)
def test_sizes(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    weights: int,
    parameters: int,
    macs: int,
    published: int | None,
) -> None:
    model = build(name, shape, classes)
    assert sum(p.numel() for p in model.parameters() if p.ndim > 1) == weights
    assert sum(p.numel() for p in model.parameters()) == parameters
    counted = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        # each place of a transposed convolution's input, here a quarter of its output's, meets all weights
        of = output[0, 0].numel() // 4 if isinstance(module, nn.ConvTranspose2d) else output[0, 0].numel()
        counted += module.weight.numel() * of

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    for layer in layers:
        layer.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    assert counted == macs
    if published is not None:
        channels = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        assert parameters + 2 * channels + channels == published


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_top_level_children_are_the_blocks_and_only_their_convolutions_lack_a_bias(name: str) -> None:
    _, shape, classes, *_ = next(net for net in (*NETS, *OF_STEPS) if net[0] == name)
    model = build(name, shape, classes)
    blocks = [child for child, _ in model.named_children()]
    assert blocks == ["stem", *(f"stage{i}" for i in range(1, len(blocks) - 1)), "head"]
    assert model.training
    for parameter, module in model.named_modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)) and parameter != "head":
            assert module.bias is None, parameter


@pytest.mark.parametrize(
    "name", ["resnet8", "mobilenet", "dscnn", "har_gru", "keyword_transformer", "shapes_unet", "swin", "vit"]
)
def test_gradients_reach_every_parameter(name: str) -> None:
    _, shape, classes, *_ = next(net for net in (*NETS, *OF_STEPS) if net[0] == name)
    model = build(name, shape, classes)
    model(torch.rand(4, *shape)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("size", [7, 8, 31, 33, 50])
def test_mobilenet_and_resnet_take_odd_sizes(size: int) -> None:
    for name in ("mobilenet", "resnet8"):
        build(name, (3, size, size + 1), 4)


def test_a_u_net_takes_what_can_be_halved_twice() -> None:
    assert build("shapes_unet", (1, 12, 20), 2)(torch.zeros(2, 1, 12, 20)).shape == (2, 2, 12, 20)
    with pytest.raises(ModelError, match=r"^shapes_unet: image 8x10 cannot be halved twice, expected multiples of 4$"):
        build("shapes_unet", (1, 8, 10), 2)


@pytest.mark.parametrize(("name", "size", "of"), [("vit", 30, 4), ("swin", 48, 32)])
def test_a_picture_is_cut_into_whole_patches_and_windows(name: str, size: int, of: int) -> None:
    assert build(name, (1, 64, 32), 2)(torch.zeros(2, 1, 64, 32)).shape == (2, 2)
    with pytest.raises(ModelError, match=rf"^{name}: image {size}x{size}, expected multiples of {of}$"):
        build(name, (1, size, size), 2)


def test_a_token_of_a_moved_window_sees_its_neighbours_of_the_picture_alone() -> None:
    layer = build("swin", (1, 64, 64), 2).eval().stage1.layer2
    place, found = (0, 31), torch.zeros(1, 32, 32, 24, requires_grad=True)
    with torch.no_grad():
        layer.attention.bias.zero_()
        for norm in (layer.norm1, layer.norm2):
            norm.bias.normal_(generator=torch.Generator().manual_seed(0))
    layer(found + torch.randn(found.shape, generator=torch.Generator().manual_seed(1)))[0, *place].sum().backward()
    moved = found.grad[0].abs().amax(-1)
    near = moved[:2, 30:]  # its window begins two tokens further, so that a quarter of it lies at this corner
    others = moved.clone()
    others[:2, 30:] = 0
    assert float(near.min()) > 1e3 * float(others.max()) > 0
    assert sorted(map(tuple, others.nonzero().tolist())) == [
        (row, column) for row in (0, 1, 30, 31) for column in (0, 1, 30, 31) if row > 1 or column < 2
    ]


def test_same_padding_is_tensorflows() -> None:
    from fedprune.models.layers import same_padding

    assert same_padding(32, 3, 2) == (0, 1)
    assert same_padding(33, 3, 2) == (1, 1)
    assert same_padding(32, 3, 1) == (1, 1)
    assert same_padding(32, 1, 2) == (0, 0)
    assert same_padding(49, 10, 2) == (4, 5)
    assert same_padding(10, 4, 2) == (1, 1)


def flat(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    features = int(torch.Size(input_shape).numel())
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


def one_logit_too_many(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return flat(input_shape, classes + 1)


def not_a_net(input_shape: tuple[int, ...], classes: int) -> str:
    return "net"


def not_finite(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    net = flat(input_shape, classes)
    nn.init.constant_(net[1].bias, float("nan"))
    return net


def not_runnable(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Linear(1000, classes)


def wrong_arguments(shape: tuple[int, ...]) -> nn.Module:
    return flat(shape, 2)


NUMBER = 3
HERE = __name__


def test_a_net_of_ones_own_is_built_by_its_dotted_name() -> None:
    assert isinstance(build(f"{HERE}:flat", (1, 8, 8), 10), nn.Sequential)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet9", "resnet9: no such model; known are char_gru, .*resnet8"),
        ("no_such_package.nets:tiny", "no_such_package.nets does not import"),
        ("./my/nets.py:tiny", r'does not import: name the module, not its file: "my\.nets:tiny"'),
        (f"{HERE}:missing", r"has no function missing\(input_shape, classes\)"),
        (f"{HERE}:NUMBER", r"has no function NUMBER"),
        (f"{HERE}:one_logit_too_many", r"logits have shape \(2, 11\), expected \(2, 10\)"),
        (f"{HERE}:not_a_net", "returned str, expected a torch.nn.Module"),
        (f"{HERE}:not_finite", "not finite"),
        (f"{HERE}:not_runnable", r"forward of a batch shaped \(2, 1, 8, 8\) failed"),
        (f"{HERE}:wrong_arguments", r"wrong_arguments\(input_shape=\(1, 8, 8\), classes=10\) failed"),
        ("har_cnn", r"har_cnn: input shape \(1, 8, 8\) must be"),
        ("vgg11", "vgg11: image 8x8 is too small"),
    ],
)
def test_the_door_names_the_culprit_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        build(name, (1, 8, 8), 10)
    assert "\n" not in str(caught.value)


def test_the_seed_alone_decides_the_weights_and_the_random_stream_is_not_moved() -> None:
    torch.manual_seed(3)
    wanted = flat((1, 8, 8), 10).state_dict()
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    for seed in (3, 4):
        found = build(f"{HERE}:flat", (1, 8, 8), 10, seed).state_dict()
        assert all(torch.equal(value, wanted[name]) == (seed == 3) for name, value in found.items())
    assert torch.rand(()) == expected


def test_the_catalogue_is_read_without_torch() -> None:
    code = "import sys, fedprune.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
