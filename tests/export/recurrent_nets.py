"""Small nets with recurrent layers, as people write them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedprune.export import litert
from fedprune.graph import inference, trace

STEPS, VALUES, CLASSES = 13, 5, 4


class LastStep(nn.Module):
    """The last of all states, after a change of axes; a map of (values, steps) comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(VALUES, 9, batch_first=True), nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.rnn(x.transpose(1, 2))[0][:, -1]))


class AfterConvolutions(nn.Module):
    """The last state by its own name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(VALUES, 8, 3, 2, 1), nn.GRU(8, 7, batch_first=True)
        self.out = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(F.relu(self.conv(x)).transpose(1, 2))[1][-1])


class BothWays(nn.Module):
    """Two layers in two directions, and the mean over all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(VALUES, 6, 2, batch_first=True, bidirectional=True, dropout=0.5)
        self.out = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x.transpose(1, 2))[0].mean(1))


class LastOfEach(nn.Module):
    """The last states of both directions, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(VALUES, 6, batch_first=True, bidirectional=True), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        last = self.rnn(x.transpose(1, 2))[1]
        return self.out(torch.cat([last[-2], last[-1]], 1))


class StepsFirst(nn.Module):
    """Without ``batch_first``, one kind after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.RNN(VALUES, 8, 2), nn.LSTM(8, 6)
        self.third, self.out = nn.RNN(6, 6, nonlinearity="relu"), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.second(self.first(x.permute(2, 0, 1))[0])
        return self.out(self.third(states)[0][-1])


NETS = (LastStep, AfterConvolutions, BothWays, LastOfEach, StepsFirst)


def made(kind: type[nn.Module], density: float = 1.0) -> tuple[nn.Module, Tensor]:
    """A net whose weights of two dimensions are pruned at random, and inputs (n, values, steps)."""
    torch.manual_seed(0)
    net = kind().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= 1.5
            if parameter.ndim == 2:
                parameter *= torch.rand_like(parameter) < density
    return net, torch.randn(48, VALUES, STEPS)


def int8(kind: type[nn.Module], density: float = 1.0) -> bytes:
    """The int8 file of such a net."""
    net, samples = made(kind, density)
    graph = inference(trace(net, samples))
    return litert.write_int8(graph, litert.calibrate(graph, samples.numpy()))
