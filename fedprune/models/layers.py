"""Building blocks of the reference nets: convolution, batch norm, ReLU, with TensorFlow's SAME padding."""

from collections import OrderedDict

from torch import Tensor, nn

from fedprune.models import ModelError


def image_shape(name: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (channels, height, width), or raise ModelError naming the net that needs an image."""
    if len(input_shape) != 3:
        raise ModelError(f"{name}: input shape {input_shape} must be (channels, height, width)")
    return input_shape[0], input_shape[1], input_shape[2]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return (before, after) zeros along one axis, so that the output has ceil(size / stride) positions.

    TensorFlow's SAME: an odd total puts the extra zero after. LiteRT convolutions do this themselves, while torch's
    symmetric padding at stride 2 would cost an extra PAD operator on the device.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    *,
    size: tuple[int, int],
    stride: int = 1,
    groups: int = 1,
    pool: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """Return [pad] conv bn [pool] [relu], SAME-padded for an input of ``size`` (height, width) positions.

    A max-pool stands before its ReLU: the function is the same and the ReLU touches a quarter of the values.
    """
    vertical, horizontal = (same_padding(*axis, stride) for axis in zip(size, kernel, strict=True))
    symmetric = vertical[0] == vertical[1] and horizontal[0] == horizontal[1]
    padding = (vertical[0], horizontal[0]) if symmetric else (0, 0)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if not symmetric:
        parts["pad"] = nn.ZeroPad2d((*horizontal, *vertical))
    # The batch norm's beta is the bias.
    parts["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    parts["bn"] = nn.BatchNorm2d(outputs)
    if pool > 1:
        parts["pool"] = nn.MaxPool2d(pool)
    if relu:
        parts["relu"] = nn.ReLU()
    return nn.Sequential(parts)


def separable(inputs: int, outputs: int, *, size: tuple[int, int], stride: int = 1) -> nn.Sequential:
    """Return a depthwise 3x3 and a pointwise 1x1 convolution, each with batch norm and ReLU."""
    return nn.Sequential(
        OrderedDict(
            depthwise=conv_bn(inputs, inputs, (3, 3), size=size, stride=stride, groups=inputs),
            pointwise=conv_bn(inputs, outputs, (1, 1), size=shrunk(size, stride)),
        )
    )


def shrunk(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the (height, width) that a SAME-padded operation of this stride leaves."""
    return -(-size[0] // stride), -(-size[1] // stride)


def mean_head(inputs: int, classes: int) -> nn.Sequential:
    """Return global average pool, flatten, linear: (batch, inputs, height, width) -> (batch, classes)."""
    return nn.Sequential(
        OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(inputs, classes))
    )


class Read(nn.Module):
    """All states of a recurrent layer over (batch, steps, values), or over (batch, values, steps) where ``turned``."""

    def __init__(self, rnn: nn.GRU, *, turned: bool = False) -> None:
        super().__init__()
        self.rnn, self.turned = rnn, turned

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.rnn(x.transpose(1, 2) if self.turned else x)[0]
        return states
