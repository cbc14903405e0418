"""`muon` against its definition, against PyTorch, and with every kind of fallback."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import Matrix, eval_params, nag, orthogonalize
from nag_optax.optimizers.nadam import nadamw
from tests import reference
from tests.helpers import (
    assert_trees_close,
    assert_trees_equal,
    falling,
    float_count,
    rising,
    sphere,
    train,
    trajectory,
)

with np.load(Path(__file__).parents[1] / "golden" / "torch_muon.npz") as _file:
    GOLDEN = dict(_file)

# For tests of matrices, with no other parameter: what a fallback does is not compiled.
muon = functools.partial(nag_optax.muon, fallback=optax.identity())

STEPS = 60
# float64; five steps magnify a rounding up to 3.44⁵ = 480 times, and the objective contracts.
EXACT = 1e-12


def weight_gradient(shape: str) -> Any:
    """Of ½‖AW − B‖² + ¼ c ΣW⁴, for NumPy and JAX; W as in PyTorch, whose rows are outputs."""
    a, b = GOLDEN[f"{shape}_a"], GOLDEN[f"{shape}_b"]
    return lambda w: a.T @ (a @ w - b) + float(GOLDEN["quartic"]) * w**3


def run(optimizer: optax.GradientTransformation, shape: str) -> np.ndarray:
    """W after each step, from kernels: a Flax kernel is the transpose of PyTorch's weight."""
    gradient = weight_gradient(shape)
    kernels, _ = trajectory(
        optimizer, lambda p: gradient(p.T).T, GOLDEN[f"{shape}_start"].T, STEPS, iterate=False
    )
    return np.swapaxes(kernels, 1, 2)


def residual(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.dtype == expected.dtype == np.float64
    return float(np.max(np.abs(actual - expected)))


def scheduled(count: jax.Array) -> jax.Array:
    return jnp.asarray(GOLDEN["rates_scheduled"])[count]


over_shapes = pytest.mark.parametrize("shape", ["tall", "wide"])


@over_shapes
class TestTorch:
    """Against the numbers of torch.optim.Muon in golden/."""

    @pytest.mark.parametrize("scaling", ["original", "match_rms_adamw"])
    def test_trajectory(self, shape: str, scaling: Any, x64: None):
        """Its average in place of our sum, with decay and a learning rate that changes."""
        optimizer = muon(
            scheduled, float(GOLDEN["momentum"]), shape_scaling=scaling, weight_decay=float(GOLDEN["decay"])
        )
        assert residual(run(optimizer, shape), GOLDEN[f"{shape}_{scaling}"]) < EXACT

    def test_other_coefficients(self, shape: str, x64: None):
        rate = float(GOLDEN["rates_constant"][0])
        optimizer = muon(rate, 0.95, shape_scaling="original", coefficients=(1.5, -0.5, 0.0), steps=9)
        assert residual(run(optimizer, shape), GOLDEN[f"{shape}_cubic"]) < EXACT

    def test_bfloat16(self, shape: str, x64: None):
        """As it is, it orthogonalises in bfloat16: eight bits, so that two orders of the same sums part."""
        optimizer = muon(scheduled, shape_scaling="original", weight_decay=0.1, dtype=jnp.bfloat16)
        ours, theirs = run(optimizer, shape), GOLDEN[f"bfloat16_{shape}"]
        rounding = 2.0**-8 * np.max(np.abs(theirs))
        assert residual(ours, theirs) < 2 * rounding
        # Rounding of that size is in theirs, too.
        assert residual(GOLDEN[f"{shape}_original"], theirs) > 0.25 * rounding
        assert residual(ours, GOLDEN[f"{shape}_original"]) > 0.25 * rounding

    def test_our_transcription(self, shape: str):
        ws = reference.muon(
            weight_gradient(shape),
            GOLDEN[f"{shape}_start"],
            lambda t: float(GOLDEN["rates_scheduled"][t]),
            float(GOLDEN["momentum"]),
            float(GOLDEN["decay"]),
            "original",
            STEPS,
        )
        assert residual(ws, GOLDEN[f"{shape}_original"]) < EXACT


@over_shapes
@pytest.mark.parametrize("scaling", ["original", "match_rms_adamw", None])
def test_the_definition(shape: str, scaling: Any, x64: None):
    # Steps that leap over the minimum magnify rounding; these do not.
    optimizer = muon(
        lambda count: falling(float_count(count)) / 4, 0.8, shape_scaling=scaling, weight_decay=0.2
    )
    expected = reference.muon(
        weight_gradient(shape),
        GOLDEN[f"{shape}_start"],
        lambda t: falling(t) / 4,
        0.8,
        0.2,
        scaling or "none",
        STEPS,
    )
    assert residual(run(optimizer, shape), expected) < EXACT


class TestMomentum:
    gradients = np.random.default_rng(4).standard_normal((3, 3, 4))

    def directions(self, momentum: Any) -> list[jax.Array]:
        """−Δ of three steps, with learning rate 1 and no scaling."""
        optimizer = muon(1.0, momentum, shape_scaling=None)
        state, found = optimizer.init(jnp.zeros((3, 4))), []
        for gradient in self.gradients:
            updates, state = jax.jit(optimizer.update)(jnp.asarray(gradient), state)
            found.append(-updates)
        return found

    @staticmethod
    def orthogonal(matrix: np.ndarray) -> np.ndarray:
        return reference.newton_schulz(matrix, 5, np.tile([3.4445, -4.7750, 2.0315], (5, 1)))

    def test_schedule(self, x64: None):
        """The buffer of b⁺ = m·b + g looks ahead with the momentum of the next step."""
        w = np.zeros((3, 4))
        for t, actual in enumerate(self.directions(lambda count: rising(float_count(count)))):
            w = rising(t + 1) * (w + self.gradients[t])
            np.testing.assert_allclose(actual, self.orthogonal(self.gradients[t] + w), rtol=0, atol=EXACT)

    def test_rule(self, x64: None):
        found = self.directions(nag_optax.momentum.sutskever(0.95))
        np.testing.assert_allclose(found[1:], self.directions(0.5)[1:], rtol=0, atol=EXACT)

    def test_zero_has_no_buffer(self, x64: None):
        assert not [s for s in jax.tree.leaves(muon(0.1, 0.0).init(jnp.zeros((3, 4)))) if s.ndim]
        for actual, gradient in zip(self.directions(0.0), self.gradients, strict=True):
            np.testing.assert_allclose(actual, self.orthogonal(gradient), rtol=0, atol=EXACT)


def model() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    shapes = {"kernel": (3, 2), "bias": (5,), "convolution": (2, 2, 3, 4), "scale": ()}
    return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}


def step_of(optimizer: optax.GradientTransformation, params: Any, grads: Any) -> Any:
    return jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0]


class TestLeaves:
    def test_two_axes_are_a_matrix_and_nothing_else(self):
        params = model()
        updates = step_of(muon(0.1, 0.9, fallback=optax.sgd(0.5), shape_scaling=None), params, params)
        others = [name for name in params if name != "kernel"]
        assert_trees_close(
            {name: updates[name] for name in others}, {name: -0.5 * params[name] for name in others}, 1e-6
        )
        alone = muon(0.1, 0.9, shape_scaling=None)
        assert_trees_close(updates["kernel"], step_of(alone, params["kernel"], params["kernel"]), 0, 1e-6)

    @pytest.mark.parametrize(
        "matrices",
        [
            {"kernel": False, "bias": False, "convolution": True, "scale": False},
            lambda path, leaf: path[0].key == "convolution",
            lambda params: {name: name == "convolution" for name in params},
            {"kernel": None, "bias": None, "convolution": Matrix((0, 1, 2), 3), "scale": None},
        ],
        ids=["tree", "of path and leaf", "of the parameters", "axes"],
    )
    @pytest.mark.parametrize("scaling", ["original", "match_rms_adamw"])
    def test_a_convolution_is_one_matrix(self, matrices: Any, scaling: Any):
        """(height, width, in, out) as (height·width·in, out), with the factor of that shape."""
        params = model()
        optimizer = muon(0.1, fallback=optax.sgd(0.5), matrices=matrices, shape_scaling=scaling)
        updates = step_of(optimizer, params, params)
        flat = params["convolution"].reshape(12, 4)
        expected = step_of(muon(0.1, shape_scaling=scaling), flat, flat)
        np.testing.assert_allclose(updates["convolution"].reshape(12, 4), expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(updates["kernel"], -0.5 * params["kernel"], rtol=1e-6)

    @pytest.mark.parametrize("scaling", ["original", "match_rms_adamw"])
    def test_scanned_layers_are_a_stack(self, scaling: Any):
        stack = jnp.asarray(np.random.default_rng(6).standard_normal((3, 2, 4)), jnp.float32)
        optimizer = muon(0.1, matrices=Matrix(-2, -1), shape_scaling=scaling)
        updates = step_of(optimizer, stack, stack)
        for layer in range(3):
            expected = step_of(muon(0.1, shape_scaling=scaling), stack[layer], stack[layer])
            np.testing.assert_allclose(updates[layer], expected, rtol=0, atol=1e-5)

    def test_a_vector_is_no_matrix(self):
        optimizer = muon(0.1, matrices={"kernel": True, "bias": True, "convolution": True, "scale": False})
        with pytest.raises(ValueError, match=r"two axes or more; \['bias'\] has shape \(5,\)"):
            optimizer.init(model())

    def test_none_gradient_of_either_kind(self):
        params = model()
        optimizer = muon(0.1, fallback=nag(0.1, 0.9))
        update = jax.jit(optimizer.update)
        _, state = update(params, optimizer.init(params), params)
        grads = {**params, "kernel": None, "bias": None}
        updates, after = update(grads, state, params)
        full, _ = update(params, state, params)
        assert updates["kernel"] is None and updates["bias"] is None
        assert_trees_close(updates["convolution"], full["convolution"], rtol=1e-6)
        assert_trees_equal(after.chosen[0].offset["kernel"], state.chosen[0].offset["kernel"])
        assert_trees_equal(after.others[1].offset["bias"], state.others[1].offset["bias"])

    def test_bfloat16_parameters(self):
        """With buffers of either dtype, the step is float32's, rounded."""
        params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), model())
        for dtype in (None, jnp.float32):
            optimizer = muon(0.1, fallback=nag(0.1, 0.9, accumulator_dtype=dtype), accumulator_dtype=dtype)
            state: Any = optimizer.init(params)
            assert state.chosen[0].offset["kernel"].dtype == (dtype or jnp.bfloat16)
            updates, _ = jax.jit(optimizer.update)(params, state, params)
            assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
            wide = step_of(
                muon(0.1), params["kernel"].astype(jnp.float32), params["kernel"].astype(jnp.float32)
            )
            # Four parts of the chain round to eight bits each; the second magnifies up to 480 times.
            np.testing.assert_allclose(np.asarray(updates["kernel"], np.float32), wide, rtol=0.05)


class TestFallback:
    def test_default_is_pytorchs_nadamw_with_the_same_arguments(self, standard_promotion: None):
        params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0, 1.0]])}
        rate, mask = optax.exponential_decay(0.1, 5, 0.5), {"a": True, "b": False}
        kwargs: Any = {"weight_decay": 0.3, "mask": mask, "accumulator_dtype": jnp.float32}
        ours, _ = train(nag_optax.muon(rate, **kwargs), params, sphere, 10)
        kwargs["mask"] = None
        theirs, _ = train(nadamw(rate, variant="dozat", **kwargs), params["a"], sphere, 10)
        np.testing.assert_allclose(ours["a"], theirs, rtol=1e-5)
        undecayed, _ = train(muon(rate), params["b"], sphere, 10)
        np.testing.assert_allclose(ours["b"], undecayed, rtol=1e-4)

    def test_its_numbers(self, standard_promotion: None):
        """Given to `muon`, a schedule among them, and injected."""
        params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0, 1.0]])}
        rate = optax.exponential_decay(0.03, 5, 0.5)
        numbers = {"fallback_b1": 0.5, "fallback_b2": 0.8, "fallback_eps": 1e-2}
        theirs = nadamw(rate, 0.5, 0.8, 1e-2, weight_decay=0.0, variant="dozat")
        expected, _ = train(theirs, params["a"], sphere, 6)
        for factory in (nag_optax.muon, optax.inject_hyperparams(nag_optax.muon)):
            ours, _ = train(factory(0.1, fallback_learning_rate=rate, **numbers), params, sphere, 6)
            np.testing.assert_allclose(ours["a"], expected, rtol=1e-5)

    def test_given_one_is_left_as_it_is(self):
        params = model()
        updates = step_of(muon(0.1, fallback=optax.sgd(0.5), weight_decay=0.5), params, params)
        np.testing.assert_allclose(updates["bias"], -0.5 * params["bias"], rtol=1e-6)

    def test_extra_arguments_reach_it(self):
        params = model()
        optimizer = muon(0.1, fallback=nag(0.1, restart="value"))
        state = optimizer.init(params)
        with pytest.raises(ValueError, match="value=loss"):
            optimizer.update(params, state, params)
        optimizer.update(params, state, params, value=jnp.array(1.0), unknown=None)


class TestEvalParams:
    """p + lr·w is no iterate where an orthogonalisation stands between."""

    def test_matrices_are_evaluated_as_they_are(self):
        params = {name: model()[name] for name in ("kernel", "bias")}
        trained, state = train(muon(0.1, fallback=nag(0.1, 0.9)), params, sphere, 7)
        x = eval_params(state, trained)
        assert_trees_equal(x["kernel"], trained["kernel"])
        alone, alone_state = train(nag(0.1, 0.9), params["bias"], sphere, 7)
        np.testing.assert_allclose(x["bias"], eval_params(alone_state, alone), rtol=1e-5)
        assert not np.allclose(x["bias"], trained["bias"], rtol=0.02)


class TestDecay:
    @pytest.mark.parametrize("scaling", ["original", "match_rms_adamw", None])
    def test_is_decoupled_and_not_scaled_by_the_shape(self, scaling: Any, x64: None):
        """Zero gradients, two steps, lr = λ = 0.1: (1 − 0.01)² (ANCHORS: .9801)."""
        optimizer = muon(0.1, weight_decay=0.1, shape_scaling=scaling)
        ps, _ = trajectory(optimizer, jnp.zeros_like, np.ones((2, 7)), 2, iterate=False)
        np.testing.assert_allclose(ps[-1], 0.9801, rtol=1e-12)

    def test_schedule(self, x64: None):
        optimizer = muon(0.1, weight_decay=lambda count: 0.5 / (1.0 + float_count(count)))
        ps, _ = trajectory(optimizer, jnp.zeros_like, np.ones((2, 7)), 2, iterate=False)
        np.testing.assert_allclose(ps[-1], (1 - 0.1 * 0.5) * (1 - 0.1 * 0.25), rtol=1e-12)

    def test_needs_the_parameters(self):
        params = jnp.ones((2, 2))
        optimizer = muon(0.1, weight_decay=0.1)
        with pytest.raises(ValueError, match="weight_decay needs the parameters"):
            optimizer.update(params, optimizer.init(params))


class TestShapeScaling:
    """Shape (in, out), with a gradient whose orthogonal factor is known: its singular values are equal."""

    @pytest.mark.parametrize(
        ("scaling", "shape", "factor"),
        [
            ("original", (2, 8), 2.0),
            ("original", (8, 2), 1.0),
            ("match_rms_adamw", (2, 8), 0.2 * np.sqrt(8)),
            ("match_rms_adamw", (8, 2), 0.2 * np.sqrt(8)),
            (None, (2, 8), 1.0),
        ],
    )
    def test_factor(self, scaling: Any, shape: tuple[int, int], factor: float, x64: None):
        gradient = jnp.eye(*shape)
        convergent: Any = {"steps": 25, "coefficients": (1.875, -1.25, 0.375)}
        updates = step_of(muon(0.5, shape_scaling=scaling, **convergent), gradient, gradient)
        np.testing.assert_allclose(updates, -0.5 * factor * gradient, rtol=1e-12)

    def test_match_rms_adamw(self, x64: None):
        """The root mean square of a full-rank step is 0.2·lr, for every shape."""
        for shape in ((4, 9), (20, 5)):
            gradient = jnp.asarray(np.random.default_rng(8).standard_normal(shape))
            optimizer = muon(1.0, steps=30, coefficients=(1.875, -1.25, 0.375))
            updates = step_of(optimizer, gradient, gradient)
            np.testing.assert_allclose(jnp.sqrt(jnp.mean(updates**2)), 0.2, rtol=1e-9)


class TestOptax:
    def test_injected_hyperparameters(self, standard_promotion: None):
        """Every number, the steps of the orthogonalisation among them."""
        params = {name: model()[name] for name in ("kernel", "bias")}
        optimizer = optax.inject_hyperparams(nag_optax.muon)(0.1, 0.9, weight_decay=0.1)
        hyperparameters = optimizer.init(params).hyperparams
        own = {"learning_rate", "momentum", "weight_decay", "steps", "eps"}
        assert set(hyperparameters) == own | {"fallback_b1", "fallback_b2", "fallback_eps"}
        injected, _ = train(optimizer, params, sphere, 5)
        direct, _ = train(nag_optax.muon(0.1, 0.9, weight_decay=0.1), params, sphere, 5)
        assert_trees_close(injected, direct, rtol=1e-4)

    def test_multi_steps(self, standard_promotion: None):
        params = {"kernel": model()["kernel"]}
        inner = muon(optax.cosine_decay_schedule(0.1, 10), fallback=optax.sgd(0.1))
        optimizer = optax.MultiSteps(inner, every_k_schedule=2)
        state, expected_state = optimizer.init(params), inner.init(params)
        update, inner_update = jax.jit(optimizer.update), jax.jit(inner.update)
        for k in range(2):
            for factor in (1.0, 3.0):
                grads = jax.tree.map(lambda p: (k + factor) * p, params)  # noqa: B023
                updates, state = update(grads, state, params)
            mean = jax.tree.map(lambda p: (k + 2.0) * p, params)  # noqa: B023
            expected, expected_state = inner_update(mean, expected_state, params)
            assert_trees_close(updates, expected, 1e-4)

    def test_the_parts_are_public(self):
        """A chain of the package's parts does what `muon` does."""
        kernel = model()["kernel"]
        chain = optax.chain(
            nag_optax.scale_by_nesterov(0.95), orthogonalize(), optax.scale_by_learning_rate(0.1)
        )
        ours, _ = train(muon(0.1, shape_scaling=None), kernel, sphere, 5)
        theirs, _ = train(chain, kernel, sphere, 5)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_reverse_mode_through_training(x64: None):
    """The derivative with respect to the momentum, of a matrix's training."""
    start = jnp.asarray(np.random.default_rng(9).standard_normal((3, 2)))

    def loss(momentum: jax.Array) -> jax.Array:
        return sphere(train(muon(0.2, momentum), start, sphere, 3)[0])

    slope = jax.jit(jax.grad(loss))(jnp.asarray(0.9))
    h = 1e-6
    np.testing.assert_allclose(
        slope, (loss(jnp.asarray(0.9 + h)) - loss(jnp.asarray(0.9 - h))) / (2 * h), 1e-4
    )
    assert abs(slope) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"learning_rate": -0.1}, ValueError, r"learning_rate must be a number in \[0, inf\) .* got -0.1"),
        ({"momentum": 1.0}, ValueError, "momentum must be .* got 1.0"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be .* got -1.0"),
        ({"weight_decay": "small"}, TypeError, "weight_decay must be"),
        ({"shape_scaling": "spectral"}, ValueError, "shape_scaling must be .* got 'spectral'"),
        ({"steps": 0}, ValueError, "steps must be an integer"),
        ({"fallback": "adam"}, TypeError, "fallback must be an optax.GradientTransformation .* got 'adam'"),
        ({"accumulator_dtype": "int8"}, ValueError, "accumulator_dtype must be a floating"),
        (
            {"fallback": optax.sgd(0.1), "fallback_learning_rate": 0.1},
            ValueError,
            "a fallback has its own learning rate: leave out fallback_learning_rate",
        ),
    ],
    ids=lambda value: str(value).partition("(")[0],
)
def test_refuses(arguments: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=f"^{message}"):
        muon(**{"learning_rate": 0.1, **arguments})


@pytest.mark.parametrize("text", ["w", {"w": "yes", "b": True}, lambda *_: "w"], ids=["text", "leaf", "made"])
def test_a_mask_of_text_is_refused(text: Any):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    with pytest.raises(TypeError, match="^matrices must be a tree .* got '(w|yes)' of type str"):
        muon(0.1, matrices=text).init(params)
    optimizer = muon(0.1, weight_decay=0.1, mask=text)
    with pytest.raises(TypeError, match="^mask must be a tree of booleans, .* got '(w|yes)' of type str"):
        optimizer.update(params, optimizer.init(params), params)
