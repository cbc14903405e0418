"""`nadam` and `nadamw`: Adam with Nesterov's lookahead, in each of its published variants."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import at_step, buffer_dtype, check_number, check_schedule, is_python_number
from nag_optax._arrays import check_buffers, step_buffers, weighted_sum, zero_buffers
from nag_optax.optimizers.moments import Decay, average, by_parts, root
from nag_optax.transforms.descent import Mask, add_decay, scale_by_learning_rate

Variant = Literal["dozat", "keras", "optax", "algoperf"]


class NAdamState(NamedTuple):
    """State of `nadam` and `nadamw`.

    Attributes:
        step: steps taken, int32.
        lookahead: w = β1·m, the kernel's offset in units of the gradient's average m.
        second_moment: v, the average of g².
        momentum_decay: ∏ μ over the steps taken, and 1 − ∏ μ.
        b2_decay: ∏ b2 over the steps taken, and 1 − ∏ b2.
    """

    step: jax.Array
    lookahead: optax.Updates
    second_moment: optax.Updates
    momentum_decay: Decay
    b2_decay: Decay


def nadam(
    learning_rate: optax.ScalarOrSchedule,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: optax.ScalarOrSchedule = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    variant: Variant = "algoperf",
    momentum_decay: jax.typing.ArrayLike = 4e-3,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """NAdam: Adam whose numerator looks ahead, in the variant of the framework you come from.

    ```
    m = b1·m + (1 − b1)·g,   v = b2·v + (1 − b2)·g²,   μ_t = b1·(1 − ½·0.96^(ψt))
    Δ = −lr·n / (√(v / (1 − b2ᵗ)) + eps),   t = 1, 2, …

    variant     n                                                         first |Δ|/lr
    "dozat"     μ_{t+1}·m/(1 − ∏ᵗ⁺¹μ) + (1 − μ_t)·g/(1 − ∏ᵗμ), ψ = 0.004         1.056
    "keras"     the same with ψ = 1                                              1.063
    "optax"     b1·m/(1 − b1ᵗ⁺¹) + (1 − b1)·g/(1 − b1ᵗ)                          1.474
    "algoperf"  (b1·m + (1 − b1)·g)/(1 − b1ᵗ)                                    1.900

    "dozat"     is torch.optim.NAdam, timm's first Nadam, tf.keras.optimizers.legacy.Nadam
    "keras"     is keras.optimizers.Nadam of Keras 3
    "optax"     is optax.nadam, optax.nadamw and optax.adam(nesterov=True)
    "algoperf"  is NAdamW of MLCommons' AlgoPerf and of timm
    ```

    The default variant was the best of a search over learning rates on three tasks, by the
    geometric mean of the losses (`python -m benchmarks.nadam`; docs/benchmarks.md has the table). A
    small character model ends at a validation loss of 2.070 with it, at 2.064 with "keras", 2.081
    with "dozat", 2.083 with "optax" and 2.133 with AdamW. On images the seeds differ by more than
    the variants: digits end at 0.0045 with the default and at 0.0051 to 0.0053 with the others,
    MNIST at 0.0988, where "dozat" reaches 0.0974.

    ψ = 0.004 is the default of momentum_decay. Averages are componentwise: a complex parameter is
    two real ones, as in PyTorch. With schedules for b1 and b2, each power above is the product of
    the values so far, and n looks ahead with the next b1; variant="optax" is then Algorithm 2 of
    the paper, without the factor b2 on v that no framework has. A gradient that is None keeps its
    buffers, while t and the powers go on. Before a parameter's first gradient, it counts as 0.

    Args:
        learning_rate: lr ≥ 0, a number or an Optax schedule. PyTorch's default is 2e-3, others' 1e-3.
        b1: decay of m, in [0, 1), a number or an Optax schedule. Under `optax.inject_hyperparams`,
            which would evaluate a schedule one step late, name it in `static_args`.
        b2: decay of v, in [0, 1), likewise.
        eps: added to the root, ≥ 0. Keras's default is 1e-7, all others' 1e-8.
        variant: "algoperf", "dozat", "keras" or "optax".
        momentum_decay: ψ ≥ 0 of the variant "dozat", per step; no other variant takes it. The
            larger, the faster μ rises from b1/2 to b1; 0 means μ = b1/2 for ever.
        accumulator_dtype: dtype of both buffers; None takes each parameter's. Use `jnp.float32`
            with bfloat16 or float16 parameters: with b2 = 0.999 an average of squares in bfloat16
            neither reaches its value nor decays, and in float16 small squares are zero.

    Returns:
        A transformation with two buffers. The parameters are where the gradients are taken, and
        what to evaluate. For L2 regularisation, PyTorch's `weight_decay`, chain
        `optax.add_decayed_weights(λ)` in front; for decoupled decay see `nadamw`.

    Raises:
        ValueError: if a Python number is out of range, the variant is unknown, or momentum_decay
            is given to a variant that has none.
        TypeError: if a hyperparameter is neither a number nor, where allowed, a schedule.

    Example:
        >>> import jax.numpy as jnp, optax, nag_optax
        >>> optimizer = nag_optax.nadam(0.1, variant="optax")
        >>> params = {"w": jnp.array([1.0, -20.0])}
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(params, state, params)
        >>> print([f"{u:.4f}" for u in updates["w"]])
        ['-0.1474', '0.1474']

    Source: Dozat, *Incorporating Nesterov momentum into Adam*, ICLR workshop 2016. The rise of μ is from
    Sutskever et al., 2013; "algoperf" after Choi et al., *On empirical comparisons of
    optimizers for deep learning*, 2019, table 1.
    """
    core = _scale_by_nadam(b1, b2, eps, variant, momentum_decay, accumulator_dtype)
    check_schedule("learning_rate", learning_rate, minimum=0)
    return optax.chain(core, scale_by_learning_rate(learning_rate))


def nadamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: optax.ScalarOrSchedule = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    *,
    mask: Mask | None = None,
    variant: Variant = "algoperf",
    momentum_decay: jax.typing.ArrayLike = 4e-3,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`nadam` with decoupled weight decay.

    ```
    Δ = −lr·(n / (√(v / (1 − b2ᵗ)) + eps) + λ·p)        n, m, v as in nadam
    ```

    This is torch.optim.NAdam with decoupled_weight_decay=True (variant="dozat"), optax.nadamw
    (variant="optax"), and NAdamW of AlgoPerf and timm (variant="algoperf").

    Args:
        learning_rate: as in `nadam`.
        b1: as in `nadam`.
        b2: as in `nadam`.
        eps: as in `nadam`.
        weight_decay: λ ≥ 0, a number or an Optax schedule; scaled by the learning rate. PyTorch's
            default is 0, Optax's 1e-4, timm's 1e-2.
        mask: tree of booleans, prefix of the parameters, or a function of them that gives one:
            True where weight decay applies. None decays every parameter. Under
            `optax.inject_hyperparams`, name a function in `static_args`.
        variant: as in `nadam`.
        momentum_decay: as in `nadam`.
        accumulator_dtype: as in `nadam`.

    Returns:
        A transformation with two buffers. Its update needs the parameters, unless weight_decay is a Python 0.

    Raises:
        ValueError, TypeError: as `nadam`; ValueError also if the parameters are missing.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
        >>> optimizer = nag_optax.nadamw(0.1, weight_decay=0.1, mask=matrices)
        >>> params = {"w": jnp.ones((1, 2)), "b": jnp.ones(2)}
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
        >>> params = optax.apply_updates(params, updates)
        >>> print(params["w"], params["b"])
        [[0.99 0.99]] [1. 1.]

    Source: as `nadam`; Loshchilov and Hutter, *Decoupled weight decay regularization*, ICLR 2019.
    """
    core = _scale_by_nadam(b1, b2, eps, variant, momentum_decay, accumulator_dtype)
    check_schedule("learning_rate", learning_rate, minimum=0)
    return optax.chain(core, add_decay(weight_decay, mask), scale_by_learning_rate(learning_rate))


def _scale_by_nadam(
    b1: optax.ScalarOrSchedule,
    b2: optax.ScalarOrSchedule,
    eps: jax.typing.ArrayLike,
    variant: Variant,
    momentum_decay: jax.typing.ArrayLike,
    accumulator_dtype: jax.typing.DTypeLike | None,
) -> optax.GradientTransformationExtraArgs:
    """g ↦ n/(√v̂ + eps): the adaptive part, before decay and learning rate."""
    if variant not in get_args(Variant):
        raise ValueError(f'variant must be "dozat", "keras", "optax" or "algoperf"; got {variant!r}')
    check_schedule("b1", b1, minimum=0, below=1)
    check_schedule("b2", b2, minimum=0, below=1)
    check_number("eps", eps, minimum=0)
    check_number("momentum_decay", momentum_decay, minimum=0)
    if variant != "dozat" and is_python_number(momentum_decay) and momentum_decay != 4e-3:
        raise ValueError(f'momentum_decay is for variant="dozat"; got {momentum_decay} with {variant!r}')
    dtype = buffer_dtype(accumulator_dtype)

    def share(count: jax.Array) -> jax.Array:
        """μ_t/b1 for the step with this count, t = count + 1."""
        if variant in ("optax", "algoperf"):
            return jnp.ones([], float)
        psi = jnp.asarray(1.0 if variant == "keras" else momentum_decay, float)
        return 1 - 0.5 * 0.96 ** (psi * (count.astype(float) + 1))

    def init_fn(params: optax.Params) -> NAdamState:
        return NAdamState(
            step=jnp.zeros([], jnp.int32),
            lookahead=zero_buffers(params, dtype),
            second_moment=zero_buffers(params, dtype),
            momentum_decay=Decay.start(),
            b2_decay=Decay.start(),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        check_buffers(updates, dtype, state.lookahead, state.second_moment)
        updates = jax.tree.map(jnp.asarray, updates)
        count, following = state.step, jnp.asarray(optax.safe_increment(state.step))
        beta, next_beta = at_step("b1", b1, count), at_step("b1", b1, following)
        beta2 = at_step("b2", b2, count)
        mu, next_mu = beta * share(count), next_beta * share(following)
        momentum = state.momentum_decay.times(mu)
        decay2 = state.b2_decay.times(beta2)
        # n = a·w⁺ + b·u with w⁺ = b1·m⁺, u = (1 − b1)·g. The ratios of μ are 1 where μ is b1.
        ahead = momentum if variant == "algoperf" else momentum.times(next_mu)
        a = share(following) / ahead.complement
        b = (1 - mu) / (1 - beta) / momentum.complement
        c = 1 / decay2.complement

        @by_parts
        def leaf(g: jax.Array, w: jax.Array, v: jax.Array):
            def own(scalar: jax.typing.ArrayLike) -> jax.Array:
                return jnp.asarray(scalar, g.dtype)

            u = own(1 - beta) * g
            w = weighted_sum(next_beta, w, next_beta, u)
            v = average(beta2, jnp.square(g), v)
            return (own(a) * w + own(b) * u) / (root(own(c) * v) + own(eps)), w, v

        updates, w, v = step_buffers(leaf, updates, state.lookahead, state.second_moment)
        return updates, NAdamState(following, w, v, momentum, decay2)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
