"""The tables of an experiment: data, training, pretraining, export, privacy, and a fleet's tiers."""

import sys
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fedprune.experiment.own_data import LARGEST, LEAST_STD, Length, Pictures, Sounds, Tables

Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # what torch takes
Rate = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
Amount = Annotated[float, Meta(ge=0, le=sys.float_info.max)]


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which examples there are and who holds them."""

    name: str
    """digits, shapes, cifar10, ucihar, keywords, plays, or a dotted name of one's own loader; of devices' own
    recordings sounds, pictures, tables or arrays."""
    partition: Literal["iid", "dirichlet", "shards", "natural", "own"] = "dirichlet"
    """How one data set is dealt to devices; own: each device has recordings of its own, and nobody deals anything."""
    devices: Natural = 0
    """How many devices share the data. In a natural partition 0 is one a person; people share fewer devices."""
    alpha: Rate = 0.5
    """Concentration of the label Dirichlet; the smaller, the more skewed."""
    shards_per_device: Positive = 2
    examples: Natural = 0
    """Use a fixed stratified part of that many training examples; 0 uses all."""
    public: Share = 0.05
    """Part of the training data that the server holds, to pretrain and to calibrate with."""
    development: Share = 0.1
    """Part of a device's training data that it sets aside to choose candidates with."""
    test: Share = 0.2
    """Part of a device's data that it sets aside to test, where the data set has no test split of its own."""
    official_test: bool = False
    """Natural partitions alone: test on the people of the official test split, who then never train."""
    central: bool = False
    """One holder has what all of these devices would hold, as ``fedprune train`` has it: to compare with."""
    classes: tuple[str, ...] = ()
    """Labels of own recordings, in the order of the model's outputs; left out, those that the devices have, sorted."""
    shape: tuple[Length, ...] = ()
    """Of an example, channels first; left out, what the devices have."""
    mean: tuple[Annotated[float, Meta(ge=-LARGEST, le=LARGEST)], ...] = ()
    """Of each channel of own recordings; with ``std``, left out, that of all devices' training examples."""
    std: tuple[Annotated[float, Meta(ge=LEAST_STD, le=LARGEST)], ...] = ()
    target_mean: tuple[Annotated[float, Meta(ge=-LARGEST, le=LARGEST)], ...] = ()
    """Of each of data.tables.targets; with ``mean``, left out, that of all devices' training examples."""
    target_std: tuple[Annotated[float, Meta(ge=LEAST_STD, le=LARGEST)], ...] = ()
    """Of each of data.tables.targets."""
    public_dir: str = ""
    """The server's folder of own recordings, to pretrain and to calibrate with; empty where it has none."""
    sounds: Sounds | None = None
    pictures: Pictures | None = None
    tables: Tables | None = None


class Stretch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some rounds of a schedule of learning rates."""

    rounds: Positive
    to: Rate | None = None
    """Learning rate of the last of them; left out, the rate stays what it was."""
    along: Literal["line", "cosine", "step"] = "line"
    """How it gets there from the rate before: evenly, along half a cosine, or at once."""


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device's local training, and what the server makes of it."""

    epochs: Positive = 1
    batch: Positive = 64
    optimiser: Literal["sgd", "adam"] = "sgd"
    """What moves a device's weights, and the server's in pretraining, where the method has nothing of its own; adam has
    decoupled weight decay (AdamW)."""
    engine: Literal["torch", "native", "auto"] = "auto"
    """What trains on devices: auto, the native trainer, in a fraction of torch's time and memory where weights are
    pruned, where it is installed and covers the model and the method, else torch; or always one of them."""
    learning_rate: Rate = 0.05
    """Of the first round; left out with adam, 0.001, in pretraining too."""
    final_learning_rate: Rate | None = None
    """Learning rate of the last round, reached by a cosine; the same as the first where left out."""
    schedule: tuple[Stretch, ...] = ()
    """Instead of final_learning_rate, stretches of rounds one after the other, such as a warm-up and a cosine:
    [{ rounds = 5, to = 0.1 }, { rounds = 45, to = 0.001, along = "cosine" }]. After the last the rate stays."""
    momentum: Share = 0.9
    """Of SGD; β₁ of adam."""
    weight_decay: Amount = 5e-4
    clip_gradients: Amount = 0.0
    """Greatest Euclidean norm of a step's gradient over all weights, in pretraining too; 0 is no limit."""
    proximal: Amount = 0.0
    """FedProx's μ: devices also minimise μ/2 ‖w − w₀‖², where w₀ is what they were sent."""
    augment: bool = True
    """Random crops and flips, for images that bear them."""
    participation: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Part of the devices that trains in a round."""
    inner_steps: Natural = 2
    """In a fleet of unequal tiers: after each step on its own part, a device takes one on each of so many smaller parts
    nested in it, with the same examples, so that all who hold a part train it; 0 leaves it to its own tier."""
    join: Literal["average", "scores", "votes"] = "average"
    """How a smaller part's masks are drawn again once the largest part's have changed: by magnitude of the averaged
    weights; by the devices' magnitudes, averaged; or by the devices' votes, each for the largest of its own weights."""
    grow_batch: Positive = 128
    """Examples behind the gradients of pruned weights that a device sends."""
    most_examples: Natural = 0
    """A device weighs as if it had at most so many training examples; 0 is no limit."""
    quantise_last: Natural = 0
    """In so many of the last rounds devices train with the rounding of the int8 file; 0 is never."""
    clip_norm: Amount = 0.0
    """What a device changes in all weights together counts with at most this Euclidean norm; 0 is no limit."""
    aggregate: Literal["mean", "median", "trimmed"] = "mean"
    """How each weight is joined over the devices that own it: their mean by examples; their median, one vote a device;
    or the mean by examples without the least and the greatest, ``trim`` of the devices at each end."""
    trim: Annotated[float, Meta(ge=0, lt=0.5)] = 0.2
    server_optimiser: Literal["none", "momentum", "adam", "yogi", "adagrad"] = "none"
    """How the server goes on with what devices changed, joined: all of it; with momentum (FedAvgM); or by FedAdam,
    FedYogi, FedAdagrad."""
    server_learning_rate: Rate | None = None
    """Left out, 1 with momentum, else 0.01."""
    server_momentum: Share = 0.9
    """Of momentum; β₁ of the others."""
    server_beta2: Share = 0.99
    """Of adam and yogi."""
    server_epsilon: Rate = 1e-3
    """τ, which is added to the root of second moments: the smaller, the more a weight's step is of one size."""
    label_smoothing: Share = 0.0
    """So much of a label's certainty is shared out among all classes, in the loss that is trained, and in no metric."""
    class_weights: str | tuple[Rate, ...] = ()
    """Of each class in the loss that is trained, and in no metric, in the order of the model's outputs; ``balanced``:
    in inverse proportion to its share of the device's own training examples (of the public ones in pretraining), so
    that no device says how many it has of which. Left out, all count 1."""


class Pretraining(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model that a run begins with: the server's dense training on its public examples, or given weights."""

    weights: str = ""
    """A .safetensors, .pt or .npz file, or the folder of a run that has ended; empty for the seed's initial weights."""
    masks: str = ""
    """The folder of a run that has ended, whose smaller model is pretrained; with the method ``as_pruned`` it is also
    what devices train. Empty is the whole."""
    seed: Seed | None = None
    """Of the initial weights and of pretraining's order; where left out that of the experiment."""
    epochs: Natural | None = None
    """On public examples; where left out 10, and none where weights are given."""
    batch: Positive = 32
    learning_rate: Rate = 0.05


class Export(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the int8 file comes to the ranges of its activations."""

    ranges: Literal["public", "devices"] = "public"
    """Whose examples they are measured on: the server's public ones, or those of the devices, which each send the least
    and the greatest value of every activation when training is over."""
    calibration: Literal["best", "minmax", "percentile", "mse"] = "best"
    """All that was seen; without the outermost 0.01 % at each end; the range of least squared rounding error; or the
    best of these, each also with biases that make up for the rounding: the file that agrees most with torch on public
    examples."""


class Privacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Local differential privacy: a device clips what its training changed and adds noise, before it answers."""

    epsilon: Amount = 0.0
    """Of one answer, below 1; 0 is no privacy. The smaller, the more noise."""
    delta: Annotated[float, Meta(gt=0, lt=1)] = 1e-5
    """How likely one answer may fail it."""
    clip_norm: Rate = 1.0
    """Greatest Euclidean norm of what one answer changes, over all weights and statistics together."""
    evaluate: bool = False
    """Whether devices still say their exact losses and hits over their test parts, which no noise covers."""


class Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A class of devices and what each of them may use; 0 is no limit. Sizes may be written as "128 MiB"."""

    devices: Positive
    trains: bool = True
    """False for devices that only run the model: they hold no data, and train nothing."""
    train_memory_bytes: Natural = 0
    """Resident memory of the device's whole process while it trains."""
    flash_bytes: Natural = 0
    """Room for the exported model."""
    sram_bytes: Natural = 0
    """Working memory (arena) of the exported model."""
    density: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """At most this; of a method that narrows the model, the fraction of channels."""
