"""The parameter trees whose update is timed: shapes alone, generated from the architectures."""

from collections.abc import Callable
from math import prod

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def one_leaf() -> Shapes:
    """2²⁴ floats in one array: the update without any cost of a tree."""
    return {"leaf": (2**24,)}


def small_leaves() -> Shapes:
    """400 arrays of 1000 floats: the cost of the tree, almost without an update."""
    return {f"leaf_{i}": (1000,) for i in range(400)}


def resnet50() -> Shapes:
    """ResNet-50 for 1000 classes (He et al., 2015): kernels in height, width, in, out order.

    Each convolution is followed by batch normalisation, whose scale and bias are trained.
    """
    shapes: Shapes = {}

    def convolution(name: str, size: int, inputs: int, outputs: int) -> None:
        shapes[f"{name}/kernel"] = (size, size, inputs, outputs)
        shapes[f"{name}/scale"] = shapes[f"{name}/bias"] = (outputs,)

    convolution("stem", 7, 3, 64)
    inputs = 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(blocks):
            name = f"stage_{stage}/block_{block}"
            convolution(f"{name}/reduce", 1, inputs, width)
            convolution(f"{name}/spatial", 3, width, width)
            convolution(f"{name}/expand", 1, width, 4 * width)
            if block == 0:
                convolution(f"{name}/shortcut", 1, inputs, 4 * width)
            inputs = 4 * width
    shapes["head/kernel"], shapes["head/bias"] = (inputs, 1000), (1000,)
    return shapes


def gpt2_small() -> Shapes:
    """GPT-2 small (Radford et al., 2019): 12 blocks of width 768, the head tied to the embedding."""
    width = 768
    shapes: Shapes = {"token_embedding": (50257, width), "position_embedding": (1024, width)}

    def norm(name: str) -> None:
        shapes[f"{name}/scale"] = shapes[f"{name}/bias"] = (width,)

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = (inputs, outputs), (outputs,)

    for block in range(12):
        name = f"block_{block}"
        norm(f"{name}/norm_1")
        linear(f"{name}/attention/qkv", width, 3 * width)
        linear(f"{name}/attention/out", width, width)
        norm(f"{name}/norm_2")
        linear(f"{name}/mlp/up", width, 4 * width)
        linear(f"{name}/mlp/down", 4 * width, width)
    norm("norm")
    return shapes


def tiny() -> Shapes:
    """Three leaves, to try the command out."""
    return {"kernel": (64, 128), "bias": (128,), "head": (128, 10)}


TREES: dict[str, Callable[[], Shapes]] = {
    "one-leaf": one_leaf,
    "resnet50": resnet50,
    "gpt2-small": gpt2_small,
    "small-leaves": small_leaves,
    "tiny": tiny,
}


def block_matrices(blocks: int, width: int) -> Shapes:
    """The matrices of a transformer as GPT-2, without the embeddings: what Muon moves."""
    sides = {
        "qkv": (width, 3 * width),
        "out": (width, width),
        "up": (width, 4 * width),
        "down": (4 * width, width),
    }
    return {f"block_{block}/{name}": shape for block in range(blocks) for name, shape in sides.items()}


MATRICES: dict[str, Callable[[], Shapes]] = {
    "gpt2-small": lambda: block_matrices(12, 768),
    "small": lambda: block_matrices(4, 384),
    "tiny": lambda: block_matrices(2, 16),
}


def num_parameters(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes.values())
