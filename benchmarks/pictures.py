"""Some pictures of a folder, and a model of the trainer that learns them with any optimizer."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from nag_optax.train.data import Dataset, load_dataset, statistics_of
from nag_optax.train.data.stream import epoch_order
from nag_optax.train.metrics import Metrics, metrics_of
from nag_optax.train.models import make_model
from nag_optax.train.optimizers import make_schedule
from nag_optax.train.rows import Split
from nag_optax.train.spec import Spec
from nag_optax.train.step import TrainState, step_key, train_step

Make = Callable[[optax.Schedule], optax.GradientTransformation]


def chosen(spec: Spec, train: int, test: int) -> tuple[Dataset, int]:
    """So many pictures of each part, always the same ones; and how many the folder has to train on."""
    dataset = load_dataset(spec)

    def some(split: Split, count: int) -> Split:
        rows = np.random.default_rng(0).permutation(len(split.labels))[:count]
        return Split(*(np.asarray(array)[rows] for array in split))

    parts = some(dataset.train, train), some(dataset.test, test)
    found = dataset._replace(train=parts[0], test=parts[1], statistics=statistics_of(parts[0].images))
    return found, len(dataset.train.labels)


class Runs:
    """Runs of one optimizer, all from one compiled step.

    Args:
        spec: of the trainer; its optimizer, learning rate and seed do not matter.
        dataset: what to train on, and what to evaluate on.
        make: the optimizer.
    """

    def __init__(self, spec: Spec, dataset: Dataset, make: Make):
        self.dataset, self._batch_size = dataset, spec.batch_size
        self.steps = -(-len(dataset.train.labels) // spec.batch_size)
        unit = make_schedule(dataclasses.replace(spec, learning_rate=1.0), self.steps)
        self._optimizer = lambda rate: optax.with_extra_args_support(make(lambda count: rate * unit(count)))
        self._model = lambda seed: make_model(spec.model, dataset.image_shape, dataset.num_classes, seed)
        self._graphdef = nnx.graphdef(self._model(0))

        def step(state: TrainState, rate: Any, seed: Any, images: Any, labels: Any) -> TrainState:
            images, key = dataset.statistics.standardise(images), step_key(seed, state.step)
            return train_step(self._graphdef, self._optimizer(rate), state, images, labels, key)

        self._step = jax.jit(step, donate_argnums=0)

    def begin(self, rate: float, seed: int) -> TrainState:
        params, rest = map(nnx.to_pure_dict, nnx.state(self._model(seed), nnx.Param, ...))
        return TrainState.fresh(params, rest, self._optimizer(rate).init(params))

    def states(self, rate: float, seed: int, epochs: int) -> Iterator[TrainState]:
        """The state after each epoch; it is given up when the next one is asked for."""
        state, train = self.begin(rate, seed), self.dataset.train
        for epoch in range(epochs):
            order = epoch_order(seed, epoch, len(train.labels), self._batch_size)
            for rows in order.reshape(self.steps, -1):
                state = self.after(state, rate, seed, rows)
            yield state

    def after(self, state: TrainState, rate: float, seed: int, rows: np.ndarray) -> TrainState:
        """The state one step later."""
        train = self.dataset.train
        return self._step(state, np.float32(rate), np.uint32(seed), train.images[rows], train.labels[rows])

    def metrics(self, state: TrainState, params: Any) -> Metrics:
        """Of the test split, at these parameters."""
        weights = params, state.model_state
        return metrics_of(self._graphdef, weights, self.dataset.statistics, self.dataset.test)
