"""The benchmark of the preset: both networks are one, and a file of results is continued and shown."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import airbench, render
from nag_optax.train.models.airbench import Airbench, whiten

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_both_networks_are_the_same_function_of_the_same_weights():
    torch = pytest.importorskip("torch", reason="torch is in the extra bench, not in test")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(20, 32, 32, 3)).cumsum(1).astype(np.float32)
    images /= images.std()
    ours: Any = Airbench((32, 32, 3), 5, widths=(4, 6, 8), rngs=nnx.Rngs(0))
    whiten(ours, images)
    channels_first = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    theirs = airbench.torch_model(channels_first, 5, (4, 6, 8))

    def found(kernel: Any) -> np.ndarray:
        """The filters, each beside its negative, in an order and with signs that both have."""
        flat = np.asarray(kernel).reshape(-1, 24).T
        half = np.sort(np.abs(flat[:12] @ np.ones(12)))
        np.testing.assert_array_equal(flat[:12], -flat[12:])
        return half

    weight = theirs.whitening.weight.detach().numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(found(ours.whitening.kernel[...]), found(weight), rtol=1e-2, atol=1e-2)
    with torch.no_grad():
        copy(ours, theirs, torch)
        expected = theirs.train()(channels_first)
    actual = ours(jnp.asarray(images), train=True)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-3, atol=1e-4)


def copy(ours: Any, theirs: Any, torch: Any) -> None:
    def put(array: Any, tensor: Any, axes: tuple[int, ...]) -> None:
        tensor.copy_(torch.from_numpy(np.array(array).transpose(axes).copy()))

    put(ours.whitening.kernel[...], theirs.whitening.weight, (3, 2, 0, 1))
    for i in (1, 2, 3):
        for name in ("conv1", "conv2"):
            kernel = getattr(getattr(ours, f"block{i}"), name).kernel[...]
            put(kernel, getattr(theirs, f"block{i}_{name}").weight, (3, 2, 0, 1))
    put(ours.head.kernel[...], theirs.head.weight, (1, 0))


def test_the_table_has_each_seed_and_their_mean(tmp_path: Path):
    entry = {"loss": [1.0, 1.5], "accuracy": [0.5, 0.625]}
    sizes = {"num_epochs": 3, "batch_size": 50, "image_size": 16, "train": 2000, "test": 100, "seeds": 2}
    result = {
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"backend": "cpu", "device": "a processor", "cores": 1},
        "versions": {"jax": "1.2.3"},
        **sizes,
        "available": 10000,
        "trainings": {airbench.OURS: entry, airbench.TORCH: entry},
    }
    path = tmp_path / "airbench.json"
    path.write_text(json.dumps(result))
    text = render.section(path)
    assert "--num-epochs 3 --batch-size 50 --image-size 16 --train 2000 --test 100" in text.replace(
        " \\\n   ", ""
    )
    assert "| 50.0, 62.5 | 56.2 ± 8.8 | 1.250 ± 0.354 |" in " ".join(text.split()).replace("  ", " ")
    assert "2,000 of the folder's 10,000 training pictures of 16 × 16 pixels" in text
