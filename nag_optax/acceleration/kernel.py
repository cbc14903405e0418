"""The kernel: one update for the whole accelerated family.

    w⁺ = β·(w + u) + γ·u      w = p − x, the lookahead offset; u, the incoming step
    Δ  = u + w⁺               the update that is returned

`accelerate` puts it last in a chain, so that w is in parameter units; `scale_by_nesterov` puts it
before the learning rate, so that w is in gradient units. A method is a choice of (β, γ): see
`momentum/`. The iterate x = p − w is read back by `eval_params`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import buffer_dtype
from nag_optax._arrays import check_buffers, zero_buffers
from nag_optax.acceleration import momentum as rules
from nag_optax.acceleration.iterate import Lookahead, shifted
from nag_optax.acceleration.momentum.restarting import Restart
from nag_optax.acceleration.step import Recursion


class AccelerateState(NamedTuple):
    """State of `accelerate`: the offset w in parameter units.

    Attributes:
        offset: w, the tree of the parameters; None when momentum is 0.
        rule_state: what the momentum rule carries.
        evaluation: scalar e of the iterate to evaluate, x = p + e·w; None when momentum is 0.
    """

    offset: optax.Updates | None
    rule_state: Any
    evaluation: jax.Array | None

    def eval_params(self, params: Any, *, learning_rate: jax.typing.ArrayLike | None = None) -> Any:
        """x = p + e·w."""
        return Lookahead(self.offset, self.evaluation).eval_params(params, learning_rate=learning_rate)


class ScaleByNesterovState(NamedTuple):
    """State of `scale_by_nesterov`: the same fields, with the offset w in gradient units."""

    offset: optax.Updates | None
    rule_state: Any
    evaluation: jax.Array | None

    def eval_params(self, params: Any, *, learning_rate: jax.typing.ArrayLike | None = None) -> Any:
        """x = p − lr·e·w."""
        if not jax.tree.leaves(self.offset):
            return params
        if learning_rate is None:
            raise ValueError(
                "the offset of scale_by_nesterov (or nag with accumulate='gradients') is in gradient "
                "units: pass learning_rate=, the learning rate of the latest step"
            )
        (factor,) = jax.tree.leaves(self.evaluation)
        return shifted(params, self.offset, -jnp.asarray(learning_rate, factor.dtype) * factor)


def accelerate(
    momentum: rules.Momentum = 0.9,
    *,
    restart: Restart | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Nesterov acceleration of the steps before it; goes last in the chain.

    ```
    w⁺ = β·(w + u) + γ·u,   Δ = u + w⁺,   x = p − w
    ```

    Here u is the incoming update, p the parameters (where the gradient is taken), x the iterate to
    evaluate (`eval_params`). With u = −lr·g, β = momentum, γ = 0 this is Nesterov's method, exact
    under any learning-rate and momentum schedule, because w is in the units of the parameters.

    Args:
        momentum: a number in [0, 1); an Optax schedule m_t, evaluated at t + 1, the momentum with
            which the next gradient is looked up; or a rule of `nag_optax.momentum`. 0 allocates no
            buffer. Under `optax.inject_hyperparams`, which would evaluate a schedule one step
            late, name it in `static_args`.
        restart: drop the offset, and begin the rule again, when the momentum does harm:
            "gradient" (⟨u, w + u⟩ < 0), "speed" (‖w + u‖ shrinks), "value" (the objective rose;
            needs `update(..., value=)`), or None: short for `momentum.restarting`. Floats and
            schedules follow the training step and do not begin again.
        accumulator_dtype: dtype of w; None takes each parameter's. Use `jnp.float32` with bfloat16
            parameters.

    Returns:
        A transformation whose update has the dtype of the incoming update. Its state keeps the
        dtype of `init`. Extra arguments that it does not know are ignored.

    Raises:
        ValueError: if momentum is a Python number outside [0, 1), restart or accumulator_dtype is
            unknown, the updates differ from the parameters in tree or shape, or `value=` is missing.
        TypeError: if momentum is no number, schedule or rule, or a parameter is not of floating or
            complex dtype.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> optimizer = optax.chain(optax.sgd(0.1), nag_optax.accelerate(momentum=0.9))
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(100):
        ...     grads = jax.grad(lambda p: jnp.sum(p**2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> x = nag_optax.eval_params(state, params)
        >>> bool(jnp.all(jnp.abs(x) < 1e-3))
        True

    Source: Nesterov, *A method for solving the convex programming problem with convergence rate
    O(1/k²)*, 1983; restart after O'Donoghue and Candès, *Adaptive restart for accelerated gradient
    schemes*, 2015, and Su, Boyd and Candès, *A differential equation for modeling Nesterov's
    accelerated gradient method*, 2016.
    """
    return nesterov_kernel(AccelerateState, rules.restarting(momentum, restart), accumulator_dtype)


def scale_by_nesterov(
    momentum: rules.Momentum = 0.9,
    *,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The same acceleration of raw gradients, for a transformation that must follow momentum.

    ```
    w⁺ = β·(w + g) + γ·g,   Δ = g + w⁺
    ```

    This is PyTorch's and Optax's Nesterov momentum: the learning rate comes after it, so a change
    of the learning rate rescales the whole velocity. Prefer `accelerate` after the learning rate;
    use this one in front of, for example, an orthogonalisation.

    Args:
        momentum: a number in [0, 1), an Optax schedule or a rule, as in `accelerate`.
        accumulator_dtype: dtype of w; None takes each parameter's.

    Returns:
        A transformation, as `accelerate`. `eval_params` needs `learning_rate=` for its state. Behind an
        orthogonalisation there is no iterate but the parameters, and it says so.

    Raises:
        ValueError, TypeError: as `accelerate`.

    Example:
        >>> import jax.numpy as jnp, optax, nag_optax
        >>> optimizer = optax.chain(nag_optax.scale_by_nesterov(0.9), optax.scale(-0.1))
        >>> params = jnp.array([1.0, -2.0])
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(2 * params, state, params)
        >>> print(updates)
        [-0.38  0.76]

    Source: Sutskever, Martens, Dahl, Hinton, *On the importance of initialization and momentum in
    deep learning*, ICML 2013, in the form that PyTorch and Optax use.
    """
    return nesterov_kernel(ScaleByNesterovState, rules.as_rule(momentum), accumulator_dtype)


def nesterov_kernel(
    state_type: Callable[..., Any], rule: rules.MomentumRule, accumulator_dtype: jax.typing.DTypeLike | None
) -> optax.GradientTransformationExtraArgs:
    """The kernel itself. The type of its state says in which units the offset is."""
    dtype = buffer_dtype(accumulator_dtype)
    if rule is rules.PLAIN:
        return _identity(state_type)
    recursion = Recursion.of(rule)

    def init_fn(params: optax.Params):
        offset = zero_buffers(params, dtype)
        rule_state = recursion.start(offset)
        return state_type(offset, rule_state, recursion.evaluated(rule_state))

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        check_buffers(updates, dtype, state.offset)
        updates = jax.tree.map(jnp.asarray, updates)
        updates, offset, rule_state = recursion.step(state.rule_state, state.offset, updates, value)
        return updates, state_type(offset, rule_state, recursion.evaluated(rule_state, state.evaluation))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _identity(state_type: Callable[..., Any]) -> optax.GradientTransformationExtraArgs:
    """Momentum 0: plain descent, no buffer, and still an accelerator for `eval_params`."""

    def init_fn(params: optax.Params):
        del params
        return state_type(offset=None, rule_state=(), evaluation=None)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        return updates, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
