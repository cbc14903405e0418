"""The benchmark of batch statistics: what it recomputes, and the committed results."""

import json
import statistics

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import batch_statistics
from benchmarks.render import RESULTS
from nag_optax.train.data import load_dataset
from nag_optax.train.models import make_model
from nag_optax.train.options import Options
from nag_optax.train.rows import Split
from nag_optax.train.spec import resolve


def test_the_statistics_are_the_mean_over_all_batches(standard_promotion):
    """Of the first layer, whose inputs are known; to the rounding of sums of 32 · 64 numbers."""
    dataset = load_dataset(resolve(Options()))
    dataset = dataset._replace(train=Split(*(part[:64] for part in dataset.train)))
    model = make_model("cnn", dataset.image_shape, 10, seed=0)
    images = dataset.statistics.standardise(jnp.asarray(dataset.train.images))
    outputs = model.conv1(images)  # pyright: ignore[reportAttributeAccessIssue]
    batches = np.asarray(outputs)[np.random.default_rng(0).permutation(64)].reshape(2, -1, 64)
    norm = batch_statistics.recomputed(model, dataset, 32).norm1
    rounding = 32 * 64 * 2.0**-24
    for found, expected in ((norm.mean, batches.mean(1)), (norm.var, batches.var(1))):
        np.testing.assert_allclose(found[...], expected.mean(0), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("batch_statistics*.json")), ids=lambda path: path.stem)
def test_at_the_end_of_a_run_the_difference_is_within_its_spread(path):
    """So no option refreshes them."""
    result = json.loads(path.read_text())
    assert len(batch_statistics.rows(result)) == 2 * 2 * 2
    for epochs in result["losses"].values():
        for losses in epochs[str(result["epochs"])].values():
            gaps = [loss["running"] - loss["recomputed"] for loss in losses]
            assert len(gaps) == result["seeds"] and abs(statistics.mean(gaps)) < statistics.stdev(gaps)
