"""A model as a list of typed operations: traced once from torch, then read by cost, surgery, export and training."""

from fedprune.graph.operations import FREE, RELU, RELU6, Add, AvgPool, BatchNorm, Bounded, Bounds, Clip, Concat, Conv2d, GlobalMean, Graph, HardSwish, Linear, MaxPool, Multiply, Operation, Pad, Parameter, Reshape, Sigmoid, Slice, Softmax, Tanh, UnsupportedOperation, consumers, parameters, producers
from fedprune.graph.rewrites import fold_batch_norm, fuse, inference
from fedprune.graph.running import run
from fedprune.graph.tracing import trace

__all__ = [
    "FREE",
    "RELU",
    "RELU6",
    "Add",
    "AvgPool",
    "BatchNorm",
    "Bounded",
    "Bounds",
    "Clip",
    "Concat",
    "Conv2d",
    "GlobalMean",
    "Graph",
    "HardSwish",
    "Linear",
    "MaxPool",
    "Multiply",
    "Operation",
    "Pad",
    "Parameter",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Tanh",
    "UnsupportedOperation",
    "consumers",
    "fold_batch_norm",
    "fuse",
    "inference",
    "parameters",
    "producers",
    "run",
    "trace",
]
