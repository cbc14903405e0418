"""The preset of the fast CIFAR-10 network: its parts beside their formulas, and runs of a small one."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from nag_optax import cli
from nag_optax.acceleration.evaluation import eval_params
from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.data import load_dataset
from nag_optax.train.loop import Loop
from nag_optax.train.models import make_model
from nag_optax.train.models.airbench import Airbench, whiten
from nag_optax.train.optimizers import make_optimizer, make_schedule
from nag_optax.train.options import Options
from nag_optax.train.registry import MODELS
from nag_optax.train.spec import load_spec, resolve
from nag_optax.train.trained import load

SMALL = MODELS["airbench"]._replace(make=partial(Airbench, widths=(4, 4, 4)))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes, dark and bright: 12 pictures to train on, the first class first, and 4 to test."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for i, name in enumerate(("dark", "bright")):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for j in range(count):
                picture = rng.integers(0, 120, (13, 14, 3)) + 120 * i
                Image.fromarray(picture.astype(np.uint8)).save(folder / f"{j}.png")
    return tmp_path / "pictures"


def test_the_network_has_the_published_parameters():
    """24 whitening filters and biases; six convolutions and their biases; the head of 256 · 10."""
    model = nnx.eval_shape(lambda: make_model("airbench", (32, 32, 3), 10, 0))
    trained, fixed = (
        sum(leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(part)))
        for part in (
            nnx.state(model, nnx.Param),
            nnx.state(model, nnx.Not(nnx.Any(nnx.Param, nnx.BatchStat))),
        )
    )
    channels = [24, 64, 64, 256, 256, 256, 256]
    convolutions = sum(9 * a * b for a, b in zip(channels, channels[1:], strict=False))
    assert fixed == 12 * 24
    assert trained == 24 + convolutions + sum(channels[1:]) + 256 * 10
    assert round((trained + fixed) / 1e6, 2) == 1.97  # million, section 3 of the paper


def test_the_first_layer_whitens_the_patches_of_the_images_with_both_signs():
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(30, 10, 12, 1)).cumsum(1).cumsum(2)
    images = (smooth + 0.3 * rng.normal(size=(30, 10, 12, 2))).astype(np.float32)
    model = Airbench((10, 12, 2), 3, widths=(4, 4, 4), rngs=nnx.Rngs(0))
    whiten(model, images)
    out = np.asarray(model.whitening(jnp.asarray(images)), np.float64)
    assert out.shape == (30, 9, 11, 16)
    np.testing.assert_array_equal(out[..., 8:], -out[..., :8])
    flat = out[..., :8].reshape(-1, 8)
    moments = flat.T @ flat / len(flat)
    np.testing.assert_allclose(moments - np.diag(np.diag(moments)), 0, atol=1e-4)
    patches = np.lib.stride_tricks.sliding_window_view(images.astype(np.float64), (2, 2), (1, 2)).reshape(
        -1, 8
    )
    values = np.linalg.eigvalsh(patches.T @ patches / len(patches))
    np.testing.assert_allclose(np.sort(np.diag(moments)), values / (values + 5e-4), rtol=1e-3)


def test_a_fresh_convolution_repeats_its_inputs():
    model = Airbench((32, 32, 3), 10, widths=(4, 40, 8), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 4))
    np.testing.assert_allclose(model.block2.conv1(x)[..., :4], x, rtol=1e-6)
    drawn = np.asarray(model.block2.conv1.kernel[...])[..., 4:]
    assert 0.9 < np.abs(drawn).max() * 6 <= 1 and abs(drawn.mean()) < 0.01  # uniform in ±1/√(3·3·4)
    np.testing.assert_allclose(model.block1.conv1(jnp.ones((1, 5, 5, 24))), 1.0, rtol=1e-6)


def test_the_head_has_no_bias_and_is_divided_by_nine():
    model = Airbench((13, 13, 1), 3, widths=(4, 4, 4), rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (5, 13, 13, 1))
    seen: list[Any] = []
    model.head = lambda x: seen.append(x) or x  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(model(images, train=False), seen[0] / 9, rtol=1e-6)


def published(params: dict[str, np.ndarray], grads: Any, steps: int, total: int) -> Any:
    """The parameters after so many steps in groups with rates of their own, as torch.optim.SGD takes them."""
    biased = {"norm": 64.0, "kernel": 1.0, "bias": 1.0}
    lr, decay, m = 1.5, 0.0153 * 1.5 / 11.5, 0.85
    peak = int(0.23 * total)
    p = {name: value.copy() for name, value in params.items()}
    slow = {name: value.copy() for name, value in params.items()}
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    for i in range(steps):
        share = np.interp(i, [0, peak, total], [0.2, 1.0, 0.07])
        for name, factor in biased.items():
            rate = lr * factor
            g = grads(i)[name] + decay / rate * p[name]
            velocity[name] = m * velocity[name] + g
            p[name] = p[name] - share * rate * (g + m * velocity[name])
        if (i + 1) % 5 == 0:
            keep = 0.95**5 * ((i + 1) / total) ** 3
            slow = {name: keep * slow[name] + (1 - keep) * p[name] for name in p}
            p = {name: slow[name].copy() for name in p}
    return p, slow


def test_the_optimizer_is_the_published_one():
    spec = resolve(Options(preset="airbench", data_dir=Path("x"), num_epochs=10))
    total, steps = 100, 88
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=4) for name in ("norm", "kernel", "bias")}

    def grads(i: int) -> dict[str, np.ndarray]:
        return {name: np.sin(i + np.arange(4) + len(name)) for name in params}

    def tree(values: Any) -> Any:
        return {
            "block1": {"norm2": {"bias": values["norm"]}, "conv1": {"kernel": values["kernel"]}},
            "layers": {0: {"bias": values["bias"]}},
        }

    optimizer = make_optimizer(spec, 10)

    @jax.jit
    def step(carry: Any, g: Any) -> Any:
        p, state = carry
        updates, state = optimizer.update(g, state, p)
        return jax.tree.map(jnp.add, p, updates), state

    p = jax.tree.map(jnp.float32, tree(params))
    carry = p, optimizer.init(p)
    for i in range(steps):
        carry = step(carry, jax.tree.map(jnp.float32, tree(grads(i))))
    # Each step rounds parameters of up to a few hundred.
    found = carry[0], eval_params(carry[1], carry[0])
    for ours, theirs in zip(found, published(params, grads, steps, total), strict=True):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), ours, tree(theirs))


def test_the_rate_rises_from_a_fifth_for_23_percent_and_falls_to_7_percent():
    spec = resolve(Options(preset="airbench", data_dir=Path("x"), num_epochs=20))
    schedule = make_schedule(spec, 50)
    expected = 1.5 * np.interp(np.arange(1001), [0, 230, 1000], [0.2, 1.0, 0.07])
    np.testing.assert_allclose(np.array([schedule(i) for i in range(1001)]), expected, rtol=1e-5)


def test_what_is_given_goes_over_the_preset_even_where_it_is_the_usual_default():
    plain = resolve(Options(preset="airbench", data_dir=Path("x")))
    assert (plain.dataset, plain.model, plain.optimizer) == ("cifar10", "airbench", "nag-lookahead")
    assert (plain.learning_rate, plain.momentum, plain.batch_size) == (1.5, 0.85, 1024)
    assert (plain.weight_decay, plain.warmup_epochs) == pytest.approx((0.0153 / 11.5, 2.3))
    assert (
        plain.default_batch and resolve(dataclasses.replace(plain_options(plain), batch_size=1024)) == plain
    )
    usual = {"augment": "none", "label_smoothing": 0.0, "precision": "float32", "evaluate_every": 1}
    words = (
        "train --preset airbench --data-dir x --augment none --label-smoothing 0 --precision float32 "
        "--evaluate-every 1 --optimizer nag --num-epochs 3"
    )
    given = cli.parse(list(words.split()))
    found = resolve(given)
    assert {name: getattr(found, name) for name in usual} == usual
    assert (found.optimizer, found.num_epochs, found.schedule) == ("nag", 3, "triangle")


def plain_options(spec: Any) -> Options:
    return Options(**{field.name: getattr(spec, field.name) for field in dataclasses.fields(Options)})


def test_the_command_says_what_the_preset_resolved_to(pictures, capsys, monkeypatch):
    monkeypatch.setitem(MODELS, "airbench", SMALL)
    words = "train --preset airbench --dataset folder --num-epochs 1 --augment none --dry-run --data-dir"
    assert cli.run([*words.split(), str(pictures)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("folder · airbench · nag-lookahead\n")
    assert (
        "--preset airbench: --dataset folder --model airbench --optimizer nag-lookahead --schedule tri" in out
    )
    assert "--num-epochs 1 --batch-size 12 --augment none --label-smoothing 0.2 --precision auto" in out
    assert cli.run(["train", "--preset", "airbunch"]) == 2
    assert capsys.readouterr().err == "nag-optax: --preset airbunch: must be one of airbench\n"
    assert cli.run(["serve", "--preset", "airbench"]) == 2
    assert "--preset airbench: cannot be combined with --method dana" in capsys.readouterr().err


def test_the_command_trains_a_whitened_network_which_its_folder_gives_back(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "airbench", SMALL)
    folder = tmp_path / "run"
    words = (
        "train --preset airbench --dataset folder --num-epochs 1 --batch-size 2 --learning-rate 0.01 --seed 3"
    )
    assert cli.run([*words.split(), "--data-dir", str(pictures), "--run-dir", str(folder)]) == 0
    dataset = load_dataset(load_spec(folder / "config.json"))
    model: Any = make_model("airbench", (13, 14, 3), 2, seed=3, sample=dataset.sample)
    trained: Any = load(folder)
    np.testing.assert_array_equal(trained.model.whitening.kernel[...], model.whitening.kernel[...])
    assert np.abs(model.whitening.kernel[...]).max() > 1.5  # The identity has 1.
    assert np.abs(trained.model.whitening.bias[...]).max() > 0
    assert trained.predict(np.asarray(dataset.test.images)).shape == (4, 2)
    assert cli.run(["export", str(folder), "--target", "stablehlo"]) == 0  # which takes any number of images


def test_a_restored_state_of_the_preset_goes_on_equal_to_the_bit(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "airbench", SMALL)
    options = Options(
        preset="airbench", dataset="folder", data_dir=pictures, batch_size=4, precision="bfloat16"
    )
    spec = resolve(dataclasses.replace(options, learning_rate=0.01))
    loop = Loop(spec, load_dataset(spec), jax.devices()[:1])
    state = loop.run_chunk(loop.init(), 4)  # The second epoch has begun.
    Checkpoints(tmp_path).save(4, state, {})
    whole = loop.run_chunk(state, 4)
    restored = Checkpoints(tmp_path).restore(loop.init(), pytest.fail)
    assert restored is not None
    resumed = loop.run_chunk(restored.state, 4)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("on_cpu", "chunks"), [(True, [1] * 24), (False, [240])])
def test_an_accelerator_takes_all_epochs_in_one_program_and_in_bfloat16(on_cpu, chunks):
    spec = resolve(Options(preset="airbench", dataset="digits", image_size=13, batch_size=60))
    loop = Loop(spec, load_dataset(spec), jax.devices()[:1])
    loop._on_cpu = on_cpu
    assert loop.chunk_lengths(0) == chunks
    assert loop.plan.how.bfloat16 is not on_cpu
