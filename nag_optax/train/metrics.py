"""Loss and accuracy of a model, and what they say of a run: its best epoch, when it stops, what to change."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nag_optax.train.data import Statistics
from nag_optax.train.progress import shown
from nag_optax.train.rows import Split
from nag_optax.train.spec import Spec

_BATCH = 500
"""Images that are evaluated at once."""


class Metrics(NamedTuple):
    """Means over a set of examples."""

    loss: float
    accuracy: float


def logits_of(
    graphdef: Any, weights: tuple[Any, ...], statistics: Statistics, images: np.ndarray
) -> jax.Array:
    """(N, classes), from a model in two or more parts."""
    # One image needs no program for hundreds.
    batch = min(_BATCH, 1 << (len(images) - 1).bit_length())
    pieces = [_predict(graphdef, weights, statistics, piece) for (piece,) in _pieces((images,), batch)]
    return jnp.concatenate(pieces)[: len(images)]


def metrics_of(
    graphdef: Any,
    weights: tuple[Any, ...],
    statistics: Statistics,
    split: Split,
    look: Callable[[], None] = lambda: None,
) -> Metrics:
    """Loss and accuracy of such a model. `look` is called now and then, and may raise to end it."""
    means = _means(partial(_score, graphdef, weights, statistics), split, look)
    return Metrics(*map(float, means))


def metrics_of_lanes(
    graphdef: Any, weights: tuple[Any, ...], statistics: Statistics, split: Split
) -> list[Metrics]:
    """The same for many models in one program. Their weights have an axis of lanes in front."""
    means = _means(partial(_score_lanes, graphdef, weights, statistics), split, lambda: None)
    return [Metrics(*map(float, of_lane)) for of_lane in zip(*means, strict=True)]


def _means(
    score: Callable[[Any, Any], tuple[jax.Array, jax.Array]], split: Split, look: Callable[[], None]
) -> list[jax.Array]:
    """Means of the scores, which have examples in their last axis."""
    scores = []
    for images, labels in _pieces(split, _BATCH):
        look()
        scores.append(score(images, labels))
    count = len(split.labels)
    return [jnp.mean(jnp.concatenate(parts, -1)[..., :count], -1) for parts in zip(*scores, strict=True)]


def _pieces(arrays: Sequence[Any], size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """`size` rows of each array at a time. Zeros fill up the last ones."""
    for start in range(0, len(arrays[0]), size):
        rows = [np.asarray(array[start : start + size]) for array in arrays]
        yield tuple(np.pad(r, [(0, size - len(r))] + [(0, 0)] * (r.ndim - 1)) for r in rows)


@partial(jax.jit, static_argnums=0)
def _predict(graphdef: Any, weights: tuple[Any, ...], statistics: Statistics, images: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, *weights)(statistics.standardise(images), train=False)


@partial(jax.jit, static_argnums=0)
def _score(
    graphdef: Any, weights: tuple[Any, ...], statistics: Statistics, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The loss of each image, and whether its class is found."""
    logits = _predict(graphdef, weights, statistics, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses, jnp.argmax(logits, -1) == labels


@partial(jax.jit, static_argnums=0)
def _score_lanes(graphdef: Any, weights: tuple[Any, ...], *data: Any) -> tuple[jax.Array, jax.Array]:
    return jax.vmap(lambda of_lane: _score(graphdef, of_lane, *data))(weights)


Rows = list[dict[str, Any]]


def best_row(rows: Rows) -> dict[str, Any] | None:
    """The first row with the highest validation accuracy, or None where nothing was held out."""
    measured = [row for row in rows if row["validation_accuracy"] is not None]
    return max(measured, key=lambda row: row["validation_accuracy"], default=None)


def stop_reason(rows: Rows, target: float | None, patience: int | None) -> str | None:
    """The reason why a run stops after these rows, or None."""
    if (best := best_row(rows)) is None:
        return None
    accuracy, epoch = f"validation accuracy {best['validation_accuracy']:.2%}", best["epoch"]
    if target is not None and best["validation_accuracy"] >= target:
        return f"{accuracy} in epoch {epoch} reaches the target, {target:g}"
    if patience is not None and rows[-1]["epoch"] - epoch >= patience:
        more = f"{patience} more epoch{'s' * (patience > 1)}"
        return f"{accuracy} in epoch {epoch} is still the best after {more}"
    return None


def divergence(spec: Spec, run_dir: Path, kept: list[int], step: int, epoch: int) -> str:
    """The line that ends a run whose loss is not finite; `kept` are steps of checkpoints, newest first."""
    where = f"the checkpoint of step {kept[0]} is kept" if kept else "no checkpoint was written yet"
    return f"the loss is not finite at step {step} (epoch {epoch}); {where} in {run_dir}. {_advice(spec)}"


def too_high(spec: Spec, row: dict[str, Any], guess: float) -> str:
    """The warning where the loss of an epoch is far above the loss of a guess."""
    return (
        f"warning: the loss of epoch {row['epoch']} is {shown(row['train_loss'])}, but guessing "
        f"has {shown(guess)}: the learning rate is too high. {_advice(spec)}"
    )


def _advice(spec: Spec) -> str:
    clip = ", or with --clip-norm 1" if spec.clip_norm is None else ""
    rate = f"{spec.learning_rate:g} (default {spec.usual_learning_rate:g})"
    return f"Start a new --run-dir with a lower --learning-rate than {rate}{clip}"
