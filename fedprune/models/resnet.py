"""Residual nets: ResNet-8 of MLPerf Tiny, ResNet-18 and ResNet-20 for images of CIFAR's size."""

from collections import OrderedDict

from torch import Tensor, nn

from fedprune.models.layers import conv_bn, image_shape, mean_head, shrunk


def resnet8(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return the image classifier of MLPerf Tiny (Banbury et al. 2021): 77,360 weights at (3, 32, 32), 10 classes.

    Stages of one block and 16, 32, 64 channels. Every convolution has a batch norm, the 1x1 shortcuts too, which in
    the reference carry a bare bias: folded, both are the same 77,706 numbers.
    """
    return _resnet("resnet8", input_shape, classes, stem=16, widths=(16, 32, 64), blocks=1)


def resnet18(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-18 (He et al. 2016) with a 3x3 stem and no max-pool: 11,173,962 parameters at 10 classes."""
    return _resnet("resnet18", input_shape, classes, stem=64, widths=(64, 128, 256, 512), blocks=2)


def resnet20(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-20 (He et al. 2016, section 4.2): 272,474 parameters at 10 classes.

    Shortcuts are 1x1 convolutions (option B), not the paper's strided slices with zero channels (option A, 269,722
    parameters): a slice is awkward to prune by channels and to export.
    """
    return _resnet("resnet20", input_shape, classes, stem=16, widths=(16, 32, 64), blocks=3)


class ResidualBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), two 3x3 convolutions (He et al. 2016, equation 2)."""

    def __init__(self, inputs: int, outputs: int, *, size: tuple[int, int], stride: int) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, (3, 3), size=size, stride=stride)
        self.second = conv_bn(outputs, outputs, (3, 3), size=shrunk(size, stride), relu=False)
        plain = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = (
            nn.Identity() if plain else conv_bn(inputs, outputs, (1, 1), size=size, stride=stride, relu=False)
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (batch, outputs, height / stride, width / stride)."""
        y: Tensor = self.relu(self.second(self.first(x)) + self.shortcut(x))
        return y


def _resnet(
    name: str, input_shape: tuple[int, ...], classes: int, *, stem: int, widths: tuple[int, ...], blocks: int
) -> nn.Module:
    channels, *extent = image_shape(name, input_shape)
    size = (extent[0], extent[1])
    parts: OrderedDict[str, nn.Module] = OrderedDict(stem=conv_bn(channels, stem, (3, 3), size=size))
    inputs = stem
    for index, width in enumerate(widths):
        stage = []
        for block in range(blocks):
            stride = 2 if index > 0 and block == 0 else 1
            stage.append(ResidualBlock(inputs, width, size=size, stride=stride))
            size, inputs = shrunk(size, stride), width
        parts[f"stage{index + 1}"] = nn.Sequential(*stage)
    parts["head"] = mean_head(inputs, classes)
    return nn.Sequential(parts)
