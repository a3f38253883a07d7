"""What a program takes of flash: its constants to the byte, its code by what each kernel takes on a Cortex-M4."""

from collections.abc import Collection, Mapping

_NUMBERS = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4}

_STRUCTS = {
    "map": 12, "step": 20, "filter": 8, "part": 28, "conv": 36, "dense": 32, "vector": 24, "linear": 24,
    "depthwise": 28, "add": 28,
    "multiply": 24, "max_pool": 16, "avg_pool": 16, "mean": 20, "lookup": 12, "place": 12, "softmax": 16,
    "move": 52, "pick": 20, "gather": 20, "reduce": 24, "bilinear": 24, "combine": 44, "rescale": 24, "rsqrt": 16,
    "l2_norm": 12, "log_softmax": 20, "matmul": 24, "wide": 28, "wide_filter": 8, "curve": 20, "copy": 28,
    "svdf": 44, "lstm": 60, "lstm_gate": 24, "conv16": 32, "pool16": 20, "softmax16": 24,
}  # fmt: skip
_LARGE_FILTER = 12  # a filter whose bias has a word to itself

# What GCC 12 makes of each file of kernels with -O2.
_CODE: Mapping[str, int] = {
    "base": 62, "steps": 148, "dense_helium": 0, "dense": 1228, "vector": 272, "tile": 82,
    "tile_dense": 104, "tile_gap4": 126, "tile_gap5": 168, "tile_gap8": 84,
    "tile_bitmap": 110, "conv": 1100, "linear_dense": 92, "linear_gap4": 102, "linear_gap5": 108, "linear_gap8": 66,
    "linear_bitmap": 76, "linear": 164, "depthwise": 1086, "add": 270, "multiply": 256, "max_pool": 322,
    "avg_pool": 324, "mean": 160, "lookup": 102, "place": 250, "softmax": 288, "reciprocal": 140, "move": 202,
    "pick": 148, "gather": 142, "reduce": 490, "bilinear": 356, "combine": 404, "unit_of": 66, "sum_of": 108,
    "difference_of": 110, "square_of": 110, "product_of": 68, "larger_of": 10, "smaller_of": 10, "leak_of": 140,
    "quotient_of": 220, "inverse_root": 240, "rescale": 244, "rsqrt": 332, "l2_norm": 278, "matmul": 422,
    "log_softmax": 706, "wide_dense": 78, "wide_gap4": 106, "wide_gap5": 112, "wide_gap8": 68, "wide_bitmap": 76,
    "tile_1of4": 202, "tile_2of4": 202, "tile_1of16": 224, "linear_1of4": 156, "linear_2of4": 148, "linear_1of16": 172,
    "wide_1of4": 156, "wide_2of4": 148, "wide_1of16": 172,
    "wide": 222, "curved": 0, "curve": 220, "copy": 72, "svdf": 516, "lstm": 1152,
    "filter16": 0, "conv16": 470, "pool16": 324, "softmax16": 556,
}  # fmt: skip
_STARTUP = 246  # vectors, reset, an empty main, model_input and model_run
_STREAM = 8  # a call in model_run
_LOOP = 48
_MEMSET = 142
_SETS = {"conv", "dense", "depthwise", "max_pool", "place"}


def constant_bytes(kind: str, large_biases: bool = False) -> int:
    """Return the bytes of one constant of a C type, such as ``int32_t`` or ``struct map``; an address takes four."""
    name = kind.removeprefix("struct ")
    if name == "filter" and large_biases:
        return _LARGE_FILTER
    return _STRUCTS[name] if name != kind else _NUMBERS[kind]


def code_bytes_predicted(kernels: Collection[str], streams: int, loops: int = 0) -> int:
    """Return about what the code of these files of kernels takes, with a startup, on a Cortex-M4 by GCC's -O2.

    ``streams``: how many of them `model_run` runs, one after the other, some of them in ``loops``.
    """
    shared = _MEMSET if _SETS & {*kernels} else 0
    return _STARTUP + shared + _STREAM * streams + _LOOP * loops + kernel_bytes(kernels)


def kernel_bytes(kernels: Collection[str]) -> int:
    """Return about what the code of these files of kernels takes by itself."""
    return sum(_CODE[name] for name in kernels)
