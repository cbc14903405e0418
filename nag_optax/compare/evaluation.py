"""Loss and accuracy of runs on data, many of them in one compiled program."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nag_optax.acceleration.evaluation import eval_params
from nag_optax.train.data import Statistics
from nag_optax.train.measure import EVALUATION_BATCH
from nag_optax.train.rows import Split
from nag_optax.train.step import TrainState


def evaluate(
    in_lanes: bool,
    graphdef: Any,
    statistics: Statistics,
    state: TrainState,
    split: Split,
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and accuracy (lanes,) at the iterate to evaluate; of all lanes at once if `in_lanes`."""
    lanes = state.step.ndim > 0
    weights = (_iterate(lanes, state.opt_state, state.params), state.model_state)
    # The activations of all lanes of a convolution at once could be too large.
    loss, accuracy = _metrics(graphdef, lanes, not in_lanes, weights, statistics, split)
    return np.atleast_1d(loss), np.atleast_1d(accuracy)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _metrics(
    graphdef: Any,
    lanes: bool,
    one_by_one: bool,
    weights: tuple[Any, Any],
    statistics: Statistics,
    split: Split,
) -> tuple[jax.Array, jax.Array]:
    count = len(split.labels)
    padded = -(-count // EVALUATION_BATCH) * EVALUATION_BATCH

    def pieces(array: Any, fill: int) -> jax.Array:
        widths = [(0, padded - count)] + [(0, 0)] * (array.ndim - 1)
        array = jnp.pad(array, widths, constant_values=fill)
        return array.reshape(-1, EVALUATION_BATCH, *array.shape[1:])

    def of_lane(weights: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
        def of_piece(piece: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            images, labels = piece
            logits = nnx.merge(graphdef, *weights)(statistics.standardise(images), train=False)
            real = labels >= 0
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
            correct = (jnp.argmax(logits, -1) == labels) & real
            return jnp.sum(jnp.where(real, losses, 0.0)), jnp.sum(correct)

        loss, correct = jax.lax.map(of_piece, (pieces(split.images, 0), pieces(split.labels, -1)))
        return jnp.sum(loss) / count, jnp.sum(correct) / count

    if not lanes:
        return of_lane(weights)
    return jax.lax.map(of_lane, weights) if one_by_one else jax.vmap(of_lane)(weights)


@partial(jax.jit, static_argnums=0)
def _iterate(lanes: bool, opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate."""
    return (jax.vmap(eval_params) if lanes else eval_params)(opt_state, params)
