"""Nets for windows of wearable sensors: a 1-D convolutional one, and a recurrent one."""

from collections import OrderedDict

from torch import Tensor, nn

from fedprune.models import ModelError
from fedprune.models.layers import Read


def har_cnn(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a net for (sensor channels, samples), 43,046 parameters at (9, 128) and 6 classes (UCI HAR's windows).

    Five convolutions over time, each with batch norm; three of them halve the time axis, which has 8 samples at least.
    """
    if len(input_shape) != 2 or input_shape[1] < 8:
        raise ModelError(f"har_cnn: input shape {input_shape} must be (sensor channels, samples), at least 8 samples")
    stage1 = nn.Sequential(_conv_bn(32, 48, 5, pool=2))
    stage2 = nn.Sequential(_conv_bn(48, 48, 5), _conv_bn(48, 64, 3, pool=2))
    stage3 = nn.Sequential(_conv_bn(64, 64, 3))
    head = nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool1d(1), flatten=nn.Flatten(), linear=nn.Linear(64, classes)))
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            stem=_conv_bn(input_shape[0], 32, 5, pool=2), stage1=stage1, stage2=stage2, stage3=stage3, head=head
        )
    )


def har_gru(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a net for (sensor channels, samples), 28,582 parameters at (9, 128) and 6 classes (UCI HAR's windows).

    A convolution of stride 4 with batch norm makes 32 steps of 128 samples, which two GRUs of 48 states read one after
    the other; the last state of the second decides.
    """
    if len(input_shape) != 2 or input_shape[1] < 8:
        raise ModelError(f"har_gru: input shape {input_shape} must be (sensor channels, samples), at least 8 samples")
    stem = OrderedDict[str, nn.Module](
        conv=nn.Conv1d(input_shape[0], 32, 8, 4, 2, bias=False), bn=nn.BatchNorm1d(32), relu=nn.ReLU()
    )
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            stem=nn.Sequential(stem),
            stage1=Read(nn.GRU(32, 48, batch_first=True), turned=True),
            stage2=Read(nn.GRU(48, 48, batch_first=True)),
            head=_Last(48, classes),
        )
    )


class _Last(nn.Module):
    """Logits of the last of all steps."""

    def __init__(self, values: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(values, classes)

    def forward(self, states: Tensor) -> Tensor:
        logits: Tensor = self.linear(states[:, -1])
        return logits


def _conv_bn(inputs: int, outputs: int, kernel: int, *, pool: int = 1) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, bias=False), bn=nn.BatchNorm1d(outputs)
    )
    if pool > 1:
        parts["pool"] = nn.MaxPool1d(pool)
    parts["relu"] = nn.ReLU()
    return nn.Sequential(parts)
