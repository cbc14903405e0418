"""`muon`: Nesterov momentum, orthogonalised, for matrices; another optimizer for the rest."""

import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import check_schedule
from nag_optax._arrays import wide
from nag_optax.acceleration.around import checked_inner
from nag_optax.acceleration.kernel import nesterov_kernel
from nag_optax.acceleration.momentum import Momentum, as_rule
from nag_optax.optimizers.nadam import nadamw
from nag_optax.transforms.descent import Mask, add_decay, scale_by_learning_rate
from nag_optax.transforms.matrices import Matrices, Matrix, matrices_of, shape_of
from nag_optax.transforms.orthogonalize import QUINTIC, Coefficients, orthogonalize
from nag_optax.transforms.partition import partition

ShapeScaling = Literal["match_rms_adamw", "original"]


class MuonMomentumState(NamedTuple):
    """State of the momentum inside `muon`, with the fields of the kernel's.

    A type of its own: behind an orthogonalisation p + lr·w is no iterate, so `eval_params` must not
    take it for an accelerator.
    """

    offset: optax.Updates | None
    rule_state: Any
    evaluation: jax.Array | None


def muon(
    learning_rate: optax.ScalarOrSchedule,
    momentum: Momentum = 0.95,
    *,
    fallback: optax.GradientTransformation | None = None,
    matrices: Matrices | None = None,
    shape_scaling: ShapeScaling | None = "match_rms_adamw",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
    steps: int = 5,
    coefficients: Coefficients = QUINTIC,
    eps: jax.typing.ArrayLike = 1e-7,
    dtype: jax.typing.DTypeLike | None = None,
    fallback_learning_rate: optax.ScalarOrSchedule | None = None,
    fallback_b1: optax.ScalarOrSchedule = 0.9,
    fallback_b2: optax.ScalarOrSchedule = 0.999,
    fallback_eps: jax.typing.ArrayLike = 1e-8,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon: steps along the orthogonalised Nesterov momentum of each matrix.

    ```
    w⁺ = m·(w + g),   O = orthogonalize(g + w⁺),   Δ = −lr·(s·O + λ·p)
    s = 0.2·√max(in, out)     shape_scaling="match_rms_adamw"
        √max(1, out/in)       shape_scaling="original"
        1                     shape_scaling=None
    ```

    w = m·b of the usual buffer b⁺ = m·b + g; an average in place of the sum gives the same
    direction. A matrix has the shape (in, out), as the kernels of Flax; PyTorch's are transposed.

    Args:
        learning_rate: lr ≥ 0, a number or an Optax schedule.
        momentum: a number in [0, 1), an Optax schedule or a rule, as in `scale_by_nesterov`.
        fallback: the optimizer of the other parameters. None takes `nadamw(variant="dozat")` with this
            learning rate, decay, mask and accumulator_dtype, and with the four numbers below.
        matrices: how the parameters hold matrices: a tree that they extend; a function of
            (path, leaf) that is asked about each; or, as `mask`, a function of all parameters that gives
            a tree. The answer for an array is a `Matrix`, which names the axes, for heads, experts and
            scanned layers; True for one matrix (…·m, n) of an array (…, m, n), such as a convolution
            (height, width, in, out); or False or None for the fallback. Without `matrices`, arrays of
            exactly two axes are matrices. Embeddings and the last layer are matrices by shape, but
            better left to the fallback. Under `optax.inject_hyperparams`, name a function in
            `static_args`.
        shape_scaling: s, from the shape of the matrix: "match_rms_adamw", "original" (Jordan's, and
            the default of `torch.optim.Muon`) or None.
        weight_decay: λ ≥ 0, a number or an Optax schedule, decoupled, as in `nag`: scaled by the
            learning rate but not by s. It does not reach a fallback that is given.
        mask: where weight decay applies, as in `nag`. None decays every parameter.
        steps, coefficients, eps, dtype: as in `orthogonalize`.
        fallback_learning_rate: for `nadamw`; with a `fallback` it is refused. None takes the matrices'
            rate. That fits "match_rms_adamw", whose entries of a step are as large as AdamW's.
        fallback_b1, fallback_b2, fallback_eps: as in `nadamw`, where no fallback is given.
        accumulator_dtype: dtype of the buffers; None takes each parameter's.

    Returns:
        A transformation with one buffer a matrix, none when momentum is 0, and the fallback's state
        for the others. A matrix is evaluated as it is: `eval_params` returns matrices as they
        are, also where the fallback is an accelerator, as `nag`.

    Raises:
        ValueError: if a Python number is out of range, an option is unknown, or `matrices` does not
            fit the parameters or their axes.
        TypeError: if a number, `fallback`, or a leaf of `matrices` or of `mask` has another type.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> optimizer = nag_optax.muon(optax.linear_schedule(0.3, 0.0, 100))
        >>> params = {"kernel": jnp.array([[1.0, 0.5], [0.0, 1.0]]), "bias": jnp.ones(2)}
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     grads = jax.grad(lambda p: jnp.sum(p["kernel"] ** 2) + jnp.sum(p["bias"] ** 2))(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     return optax.apply_updates(params, updates), state
        >>> for _ in range(100):
        ...     params, state = step(params, state)
        >>> bool(jnp.all(jnp.abs(params["kernel"]) < 0.05))
        True

    Source: Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024; the
    scaling "match_rms_adamw" and the decay after Liu et al., *Muon is scalable for LLM training*,
    2025.
    """
    if shape_scaling is not None and shape_scaling not in get_args(ShapeScaling):
        raise ValueError(
            f'shape_scaling must be "match_rms_adamw", "original" or None; got {shape_scaling!r}'
        )
    check_schedule("learning_rate", learning_rate, minimum=0)
    if fallback is None:
        fallback = nadamw(
            learning_rate if fallback_learning_rate is None else fallback_learning_rate,
            fallback_b1,
            fallback_b2,
            fallback_eps,
            weight_decay,
            mask=mask,
            variant="dozat",
            accumulator_dtype=accumulator_dtype,
        )
    else:
        fallback = checked_inner(fallback, "fallback")
        if fallback_learning_rate is not None:
            raise ValueError("a fallback has its own learning rate: leave out fallback_learning_rate")
    held = _rank_two if matrices is None else matrices
    matrix_optimizer = optax.chain(
        nesterov_kernel(MuonMomentumState, as_rule(momentum), accumulator_dtype),
        orthogonalize(steps, coefficients=coefficients, eps=eps, matrices=held, dtype=dtype),
        _scale_by_shape(shape_scaling, held),
        add_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

    def is_matrix(params: optax.Params) -> Any:
        flags = [matrix is not None for matrix in matrices_of(held, params)]
        return jax.tree.unflatten(jax.tree.structure(params), flags)

    return partition(is_matrix, matrix_optimizer, fallback)


def _rank_two(path: Any, leaf: jax.Array) -> bool:
    del path
    return jnp.ndim(leaf) == 2


def _scale_by_shape(shape_scaling: ShapeScaling | None, matrices: Matrices) -> optax.GradientTransformation:
    def leaf(u: jax.Array, matrix: Matrix | None) -> jax.Array:
        if shape_scaling is None or matrix is None or u.size == 0:
            return u
        _, rows, columns = shape_of(u.shape, matrix)
        squared = 0.04 * max(rows, columns) if shape_scaling == "match_rms_adamw" else max(1, columns / rows)
        dtype = wide(u.dtype)
        return (jnp.asarray(math.sqrt(squared), dtype) * u.astype(dtype)).astype(u.dtype)

    def scaled(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        leaves, treedef = jax.tree.flatten(updates)
        return treedef.unflatten(map(leaf, leaves, matrices_of(matrices, updates)))

    return optax.stateless(scaled)
