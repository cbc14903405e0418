"""The models of the trainer, one a file; what else it can do with each stands in the registry."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import lax

from nag_optax.layers.convolution import conv_general_dilated
from nag_optax.train.errors import InputError
from nag_optax.train.registry import model_row
from nag_optax.train.rows import check_call, load_factory


def make_model(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    widths: tuple[int, ...] | None = None,
    sample: Callable[[], np.ndarray] | None = None,
) -> nnx.Module:
    """A freshly initialised model. Its parameters are a function of the seed and, for some, of a `sample`.

    `widths` are the units of each hidden layer; None takes those of the registry. `sample` gives some
    standardised training images. Without it, a model that begins with what they show has its shapes alone.
    """
    row = model_row(name)
    if min(image_shape[:2]) < row.smallest_image:
        raise InputError(
            f"--image-size: --model {name} needs images of at least {row.smallest_image} pixels a side; "
            f"these are {image_shape[0]} x {image_shape[1]}"
        )
    given: dict[str, Any] = {"widths": widths or row.widths} if row.widths else {}
    make, what = load_factory(row.make, "--model"), f"--model {name}"
    given |= {"rngs": nnx.Rngs(seed)}
    check_call(what, "factory(image_shape, num_classes, rngs=rngs)", make, image_shape, num_classes, **given)
    model = make(image_shape, num_classes, **given)
    check_call(what, "model(images, train=train, rngs=rngs)", model, None, train=True, rngs=None)
    for _, module in nnx.iter_graph(model):
        if isinstance(module, nnx.Conv) and module.conv_general_dilated is lax.conv_general_dilated:
            module.conv_general_dilated = conv_general_dilated  # In a loop on a CPU, XLA's own crawls.
    # A dropout that draws for itself has a key. Files and wires take its plain numbers.
    nnx.update(model, jax.tree.map(jax.random.key_data, nnx.state(model, nnx.RngKey)))
    if row.prepare is not None and sample is not None:
        load_factory(row.prepare)(model, sample())
    return model
