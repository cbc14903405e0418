"""`Matrix`: every shape of parameter against its matrices one by one."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import Matrix, eval_params, muon, nag, orthogonalize
from tests import reference
from tests.helpers import assert_trees_close, assert_trees_equal, train

# Five steps in float32 that magnify a rounding up to 3.44⁵ times.
ROUNDING = 4 * 3.44**5 * 2.0**-24

JORDAN = np.tile([3.4445, -4.7750, 2.0315], (5, 1))

# What each array holds, and the same in NumPy: its matrices (stack, rows, columns).
MODEL: dict[str, tuple[tuple[int, ...], Any, Any]] = {
    "dense": ((6, 4), True, lambda w: w[None]),
    "transposed": ((4, 6), Matrix(1, 0), lambda w: w.T[None]),
    "convolution": ((2, 3, 4, 5), Matrix((0, 1, 2), 3), lambda w: w.reshape(1, 24, 5)),
    "flat": ((2, 3, 4, 5), True, lambda w: w.reshape(1, 24, 5)),
    "layers": ((3, 4, 6), Matrix(-2, -1), lambda w: w),
    "layers last": ((4, 6, 3), Matrix(0, 1), lambda w: w.transpose(2, 0, 1)),
    "heads": ((6, 3, 4), Matrix(0, 2), lambda w: w.transpose(1, 0, 2)),
    "joined heads": ((6, 3, 4), Matrix(0, (1, 2)), lambda w: w.reshape(1, 6, 12)),
    "out of heads": ((3, 4, 6), Matrix((0, 1), 2), lambda w: w.reshape(1, 12, 6)),
    "experts of layers": ((2, 2, 4, 6), Matrix(2, 3), lambda w: w.reshape(4, 4, 6)),
}
CHOSEN = {name: choice for name, (_, choice, _) in MODEL.items()}
PARAMS = {
    name: jnp.asarray(np.random.default_rng(i).standard_normal(shape), jnp.float32)
    for i, (name, (shape, _, _)) in enumerate(MODEL.items())
}


def matrices(tree: Any) -> Any:
    """Each matrix of each array as an array of its own."""
    return {name: list(jnp.asarray(MODEL[name][2](np.asarray(leaf)))) for name, leaf in tree.items()}


def test_all_in_one_optimizer_equal_the_matrices_one_by_one():
    optimizer = muon(0.1, matrices=CHOSEN, shape_scaling="original", fallback=optax.identity())
    updates, _ = jax.jit(optimizer.update)(PARAMS, optimizer.init(PARAMS))
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)

    def one(matrix: jax.Array) -> np.ndarray:
        rows, columns = matrix.shape
        direction = reference.newton_schulz(np.asarray(matrix, np.float64), 5, JORDAN)
        return -0.1 * np.sqrt(max(1, columns / rows)) * direction

    # The learning rate, and a factor of at most √(12/6).
    assert_trees_close(matrices(updates), jax.tree.map(one, matrices(PARAMS)), 0, 0.15 * ROUNDING)


def test_a_function_of_path_and_leaf():
    def choice(path: Any, leaf: jax.Array) -> Any:
        assert leaf.shape == PARAMS[path[0].key].shape
        return CHOSEN[path[0].key]

    by_function, by_tree = (
        jax.make_jaxpr(lambda u: orthogonalize(matrices=given).update(u, optax.EmptyState()))(PARAMS)  # noqa: B023
        for given in (choice, CHOSEN)
    )
    assert str(by_function) == str(by_tree)


def test_what_holds_none_stays():
    updates = {"a": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "none": None, "c": 2 * jnp.ones((2, 2))}
    chosen = {"a": {"w": True, "b": None}, "none": None, "c": False}
    found: Any = orthogonalize(matrices=chosen).update(updates, optax.EmptyState())[0]
    assert_trees_equal({**found, "a": found["a"]["b"]}, {**updates, "a": updates["a"]["b"]})
    assert not np.allclose(found["a"]["w"], 1.0)


def test_scanned_layers_equal_layers():
    """The same model, its layers stacked for a scan or each for itself, the biases to the fallback."""
    rng = np.random.default_rng(3)
    stacked = {"kernel": jnp.asarray(rng.standard_normal((3, 4, 4)), jnp.float32), "bias": jnp.ones((3, 4))}
    layers = [jax.tree.map(lambda p: p[i], stacked) for i in range(3)]  # noqa: B023
    x = jnp.ones(4)

    def layer(x: jax.Array, p: Any) -> tuple[jax.Array, None]:
        return jnp.tanh(x @ p["kernel"] + p["bias"]), None

    def loss_of_layers(layers: Any) -> jax.Array:
        y = x
        for p in layers:
            y, _ = layer(y, p)
        return jnp.sum(y**2)

    optimizer = muon(0.1, fallback=nag(0.1))
    scanned = muon(0.1, fallback=nag(0.1), matrices={"kernel": Matrix(-2, -1), "bias": False})
    found, state = train(scanned, stacked, lambda p: jnp.sum(jax.lax.scan(layer, x, p)[0] ** 2), 3)
    expected, expected_state = train(optimizer, layers, loss_of_layers, 3)
    # Rounding that three steps of 0.1·0.2·√4 have magnified, in a model with a slope of about 1.
    assert_trees_close(found, jax.tree.map(lambda *ps: jnp.stack(ps), *expected), 0, 3 * ROUNDING)
    assert_trees_close(
        eval_params(state, found)["bias"],
        jnp.stack([p["bias"] for p in eval_params(expected_state, expected)]),
        0,
        3 * ROUNDING,
    )


def test_masked_and_injected():
    params = {"layers": PARAMS["layers"], "frozen": PARAMS["dense"], "bias": jnp.ones(3)}
    chosen = {"layers": Matrix(-2, -1), "frozen": None, "bias": None}
    factory = optax.inject_hyperparams(muon, static_args="matrices")
    optimizer = optax.masked(
        factory(0.1, fallback=optax.sgd(0.5), matrices=chosen),
        {"layers": True, "frozen": False, "bias": True},
    )
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    assert_trees_equal(updates["frozen"], params["frozen"])
    np.testing.assert_allclose(updates["bias"], -0.5)
    one = muon(0.1, matrices=Matrix(-2, -1))
    expected, _ = jax.jit(one.update)(params["layers"], one.init(params["layers"]))
    np.testing.assert_allclose(updates["layers"], expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 0), ValueError, r"an axis is named twice: Matrix\(rows=0, columns=0\)"),
        (((0, 1), 1), ValueError, "an axis is named twice"),
        (((), 1), ValueError, r"rows must be an axis or several; got \(\)"),
        ((0, 1.0), TypeError, "columns must be integers; got 1.0 of type float"),
        ((True, 0), TypeError, "rows must be integers; got True of type bool"),
    ],
)
def test_refuses(arguments: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=f"^{message}"):
        Matrix(*arguments)


@pytest.mark.parametrize("matrix", [Matrix(0, 3), Matrix(1, -1), Matrix(-3, 1)])
def test_refuses_axes_that_an_array_does_not_have(matrix: Matrix):
    with pytest.raises(ValueError, match=r"^Matrix\(.*\) is none of \['w'\], which has shape \(2, 3\)"):
        muon(0.1, matrices={"w": matrix}).init({"w": jnp.ones((2, 3))})


def test_refuses_a_tree_that_does_not_fit():
    message = "^matrices must be a tree that the parameters extend, .*; it has none for parameter .*'b'"
    with pytest.raises(ValueError, match=message):
        muon(0.1, matrices={"w": True}).init({"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    with pytest.raises(TypeError, match="^matrices must be a tree .* alone.*static_args"):
        muon(0.1, matrices=True).init({"w": jnp.ones((2, 3))})
