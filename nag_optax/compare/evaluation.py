"""Loss and accuracy of runs on data, many of them in one compiled program."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nag_optax.compare.contenders import Contender
from nag_optax.train.config import ModelName
from nag_optax.train.data import Dataset, Split
from nag_optax.train.loop import EVALUATION_BATCH, TrainState


class Evaluation:
    """Of one model and dataset."""

    def __init__(self, model: ModelName, graphdef: Any, dataset: Dataset):
        self._model: ModelName = model
        self._graphdef, self._dataset = graphdef, dataset

    def __call__(
        self, contender: Contender, state: TrainState, split: Split
    ) -> tuple[np.ndarray, np.ndarray]:
        """Loss and accuracy (lanes,) at the iterate to evaluate."""
        lanes = state.step.ndim > 0
        params = _iterate(contender, lanes, state.opt_state, state.params)
        loss, accuracy = self._metrics(lanes, params, state.model_state, split)
        return np.atleast_1d(loss), np.atleast_1d(accuracy)

    @partial(jax.jit, static_argnums=(0, 1))
    def _metrics(self, lanes: bool, params: Any, rest: Any, split: Split) -> tuple[jax.Array, jax.Array]:
        count = len(split.labels)
        padded = -(-count // EVALUATION_BATCH) * EVALUATION_BATCH

        def pieces(array: Any, fill: int) -> jax.Array:
            widths = [(0, padded - count)] + [(0, 0)] * (array.ndim - 1)
            array = jnp.pad(array, widths, constant_values=fill)
            return array.reshape(-1, EVALUATION_BATCH, *array.shape[1:])

        def of_lane(params: Any, rest: Any) -> tuple[jax.Array, jax.Array]:
            def of_piece(piece: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                images, labels = piece
                logits = nnx.merge(self._graphdef, params, rest)(
                    self._dataset.standardise(images), train=False
                )
                real = labels >= 0
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
                correct = (jnp.argmax(logits, -1) == labels) & real
                return jnp.sum(jnp.where(real, losses, 0.0)), jnp.sum(correct)

            loss, correct = jax.lax.map(of_piece, (pieces(split.images, 0), pieces(split.labels, -1)))
            return jnp.sum(loss) / count, jnp.sum(correct) / count

        if not lanes:
            return of_lane(params, rest)
        if self._model == "cnn":  # The activations of all lanes at once could be too large.
            return jax.lax.map(lambda weights: of_lane(*weights), (params, rest))
        return jax.vmap(of_lane)(params, rest)


@partial(jax.jit, static_argnums=(0, 1))
def _iterate(contender: Contender, lanes: bool, opt_state: Any, params: Any) -> Any:
    """The parameters to evaluate."""
    return (jax.vmap(contender.iterate) if lanes else contender.iterate)(opt_state, params)
