"""The nets that the battery brings, in rows by kind, and the table of what becomes of each."""

from collections.abc import Mapping
from typing import NamedTuple

CELLS = ("trains", "prunes", "channels removed", "int8", "C99", "bit-exact", "resumed")


class Row(NamedTuple):
    """A net, what it takes, and which cells of its are not to be had."""

    title: str
    net: str
    data: str
    cannot: Mapping[str, str] = {}
    """Cell -> the line that says why."""


_ONE = {"channels removed": "no layer reads units that could go one by one"}
"""Of nets whose norm mixes all channels, or whose recurrent layers are kept whole."""
_WHOLE = ("layer_norm", "gru", "lstm_both_ways", "rnn", "token_gru")
_UNTOLD = {"bit-exact": "no runtime here has both a GELU and TensorFlow Lite Micro's roots of 16 bits"}
"""Of nets with layer norms and GELUs: TensorFlow Lite Micro lacks the one, LiteRT's other is a step off."""
_GELU = ("convnext", "encoder_stack", "vit", "mixer")


def _cannot(net: str) -> Mapping[str, str]:
    return _ONE if net in _WHOLE else _UNTOLD if net in _GELU else {}


def _rows(module: str, data: str, **titles: str) -> list[Row]:
    return [Row(title, f"{module}:{net}", data, _cannot(net)) for net, title in titles.items()]


KINDS: Mapping[str, list[Row]] = {
    "norms": _rows(
        "brought_convolutions", "pictures",
        batch_norm="batch norm", group_norm="group norm", instance_norm="instance norm",
        layer_norm="layer norm of a map", no_norm="none",
    ),
    "activations": _rows(
        "brought_convolutions", "pictures",
        relu6="ReLU6", leaky_relu="LeakyReLU", prelu="PReLU", elu="ELU", gelu="GELU", silu="SiLU",
        hard_swish="hard-swish", hard_sigmoid="hard-sigmoid", tanh="tanh", sigmoid="sigmoid",
    ),
    "convolutional": _rows(
        "brought_convolutions", "pictures",
        plain="LeNet's shape", residual="residual", dense="dense connections", grouped="grouped",
        separable="depthwise separable, shuffled", dilated="reflection, dilation, unequal windows",
        shuffled_pixels="pixel shuffle", unet_transposed="U-Net, transposed", unet_bilinear="U-Net, bilinear",
        unet_nearest="U-Net, nearest",
    ),
    "torchvision's designs": _rows(
        "brought_designs", "pictures",
        mobilenet_v2="MobileNet V2", mobilenet_v3="MobileNet V3", shufflenet_v2="ShuffleNet V2",
        squeezenet="SqueezeNet", resnet18="ResNet-18", convnext="ConvNeXt",
    ),
    "rows": _rows(
        "brought_sequences", "rows",
        mlp_two="MLP of two layers", mlp_three="MLP of three, two norms", mlp_residual="gated, residual",
    ) + _rows("brought_sequences", "pictures", mlp_flat="MLP of pictures"),
    "signals": _rows(
        "brought_convolutions", "signals", signal_conv="1-D convolutions", temporal="dilated, `x[:, :, -1]`"
    ) + _rows(
        "brought_sequences", "signals",
        conv_gru="convolutions and GRU", gru="GRU", lstm_both_ways="LSTM, two layers, both ways", rnn="RNN",
    ),
    "attention": _rows(
        "brought_sequences", "signals",
        encoder="nn.TransformerEncoderLayer", encoder_stack="nn.TransformerEncoder, norms first",
        attention="attention by hand",
    ) + _rows("brought_sequences", "pictures", vit="ViT", mixer="MLP-Mixer"),
    "tokens": _rows(
        "brought_tokens", "tokens",
        token_mlp="embedding and MLP", token_gru="embedding and GRU", token_transformer="transformer, causal",
        token_convolution="causal convolutions", token_tied="embedding tied to the logits",
    ) + _rows("brought_tokens", "texts", text_class="classifier of texts"),
    "habits": _rows(
        "brought_habits", "pictures",
        dropout="dropout", tied="tied weights", tied_twice="a block called twice", frozen="frozen backbone",
        weight_norm="weight_norm", auxiliary="auxiliary output in training", unused="unused parameters",
        normalises="`(x - m) / s` inside", softmax_end="softmax at the end", two_branches="branches of pooled maps",
        gated="a gate over positions",
    ),
}  # fmt: skip
ROWS = {row.net.partition(":")[2]: row for rows in KINDS.values() for row in rows}


def table() -> str:
    """The table in Markdown, a dash where a cell is not to be had."""
    lines = ["| net | " + " | ".join(CELLS) + " |", "|---" * (1 + len(CELLS)) + "|"]
    for kind, rows in KINDS.items():
        lines.append(f"| **{kind}** |" + " |" * len(CELLS))
        for row in rows:
            lines.append(f"| {row.title} | " + " | ".join("–" if cell in row.cannot else "✓" for cell in CELLS) + " |")
    return "\n".join(lines) + "\n"


def counts() -> str:
    """The table in short: of each kind's nets, how many have the cell."""
    lines = ["| kind | nets | " + " | ".join(CELLS) + " |", "|---" * (2 + len(CELLS)) + "|"]
    for kind, rows in KINDS.items():
        had = [sum(cell not in row.cannot for row in rows) for cell in CELLS]
        lines.append(f"| {kind} | {len(rows)} | " + " | ".join(map(str, had)) + " |")
    return "\n".join(lines) + "\n"
