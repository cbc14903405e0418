"""What the tests of streamed pictures share: a small folder, a small model, a run of the two."""

from pathlib import Path

import numpy as np
from flax import nnx
from PIL import Image

from nag_optax.train.options import Options


def write_picture(path: Path, seed: int, side: int = 6) -> None:
    """Of 8 x 6 pixels, bright below a folder `dog`."""
    light = 100 * (path.parent.name == "dog")
    pixels = np.random.default_rng(seed).integers(light, 156 + light, (side, 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_pictures(folder: Path) -> Path:
    """21 of two classes to train on, and 4 to test."""
    for part, count in (("train", 21), ("test", 4)):
        for i in range(count):
            write_picture(folder / part / ("cat", "dog")[i % 2] / f"{i}.png", i)
    return folder


class Net(nnx.Module):
    """A convolution and dropout, compiled in a second, and run a step at a time."""

    def __init__(self, image_shape, num_classes, *, rngs):
        self.conv = nnx.Conv(image_shape[2], 4, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.2)
        self.head = nnx.Linear(4, num_classes, rngs=rngs)

    def __call__(self, images, *, train, rngs=None):
        x = self.dropout(nnx.relu(self.conv(images)), deterministic=not train, rngs=rngs)
        return self.head(x.mean((1, 2)))


def options_of(folder: Path, **fields) -> Options:
    """Six steps an epoch, streamed in this process."""
    fields = {"resident": "no", "data_workers": 0, "batch_size": 4, "num_epochs": 2, **fields}
    return Options(dataset="folder", data_dir=folder, model=f"{__name__}:Net", learning_rate=0.05, **fields)
