"""How close an optimizer stays to Nesterov's own sequences, and to its proven bound.

    python -m benchmarks.exactness --figure exactness.png

Float64, f(x) = ½ Σ λᵢ xᵢ² with 100 eigenvalues from 1 down to 1e-4, x₀ = 1. Left: step size 1/L and
momentum (k − 1)/(k + 2), beside gradient descent, with the bounds 2LR²/(n + 1)² and LR²/(4n + 2).
Right: momentum 0.9 and a learning rate that decays by a cosine; the distance of the points at which
gradients are taken from those of the textbook.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nag_optax
from benchmarks.options import Parser, writable_file
from nag_optax.plot import convergence
from nag_optax.plot.style import BLUE, ORANGE, VERMILION

STEPS = 300
EIGENVALUES = np.logspace(0, -4, 100)
START = np.ones(100)


class Trajectory(NamedTuple):
    """Iterates x, and the points y at which gradients are taken; (STEPS + 1, 100) each."""

    x: np.ndarray
    y: np.ndarray


def growing_momentum(count: jax.typing.ArrayLike) -> jax.Array:
    return jnp.maximum(jnp.asarray(count) - 1.0, 0.0) / (jnp.asarray(count) + 2.0)


def textbook(learning_rate: optax.Schedule, momentum: optax.Schedule) -> Trajectory:
    """x⁺ = y − lr·∇f(y), y⁺ = x⁺ + m⁺(x⁺ − x)."""
    x = y = START
    xs, ys = [x], [y]
    for t in range(STEPS):
        previous, x = x, y - np.asarray(learning_rate(t)) * EIGENVALUES * y
        y = x + np.asarray(momentum(t + 1)) * (x - previous)
        xs.append(x)
        ys.append(y)
    return Trajectory(np.stack(xs), np.stack(ys))


def trajectory(optimizer: optax.GradientTransformation) -> Trajectory:
    eigenvalues = jnp.asarray(EIGENVALUES)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(eigenvalues * params, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (nag_optax.eval_params(state, params), params)

    params = jnp.asarray(START)
    _, (xs, ys) = jax.lax.scan(step, (params, optimizer.init(params)), None, length=STEPS)
    return Trajectory(np.vstack([START, np.asarray(xs)]), np.vstack([START, np.asarray(ys)]))


def objective(iterates: np.ndarray) -> np.ndarray:
    return 0.5 * (iterates**2 * EIGENVALUES).sum(1)


def main(args: list[str] | None = None) -> None:
    parser = Parser(
        prog="python -m benchmarks.exactness",
        description="How close an optimizer stays to Nesterov's own sequences.",
    )
    parser.add_argument("--figure", type=writable_file, metavar="FILE.png", help="draw the comparison")
    options = parser.parse_args(args)
    jax.config.update("jax_enable_x64", True)

    one, nine = optax.constant_schedule(1.0), optax.constant_schedule(0.9)
    cosine = optax.cosine_decay_schedule(1.0, STEPS)
    injected = optax.inject_hyperparams(optax.sgd, static_args=("nesterov",))
    descent = trajectory(optax.sgd(1.0))
    growing = {
        "optax.sgd(nesterov=True)": trajectory(
            injected(learning_rate=1.0, momentum=growing_momentum, nesterov=True)
        ),
        "nag": trajectory(nag_optax.nag(1.0, growing_momentum)),
    }
    decaying = {
        "optax.sgd(nesterov=True)": trajectory(optax.sgd(cosine, 0.9, nesterov=True)),
        "nag": trajectory(nag_optax.nag(cosine, 0.9)),
    }
    for title, runs, truth in (
        ("momentum (k - 1)/(k + 2)", growing, textbook(one, growing_momentum)),
        ("learning rate decayed by a cosine", decaying, textbook(cosine, nine)),
    ):
        print(f"{title}, {STEPS} steps: largest distance from the textbook's y")
        for name, run in runs.items():
            print(f"  {name:26} {np.abs(run.y - truth.y).max():.1e}")
    if options.figure:
        draw(descent, growing["nag"], decaying, textbook(cosine, nine), options.figure)


def draw(
    descent: Trajectory, nag: Trajectory, decaying: dict[str, Trajectory], truth: Trajectory, path: Path
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(STEPS + 1)
    squared_distance = float((START**2).sum())
    convergence(
        {"gradient descent": objective(descent.x), "nag, growing momentum": objective(nag.x)},
        {
            "gradient descent": squared_distance / (4 * steps + 2),
            "nag, growing momentum": 2 * squared_distance / (steps + 1) ** 2,
        },
        log_steps=True,
        colors={"gradient descent": ORANGE, "nag, growing momentum": BLUE},
        ax=left,
    )
    convergence(
        {name: np.maximum(np.abs(run.y - truth.y).max(1), 1e-17)[1:] for name, run in decaying.items()},
        steps=steps[1:],
        ylabel="|y − Nesterov's y|",
        colors={"optax.sgd(nesterov=True)": VERMILION, "nag": BLUE},
        ax=right,
    )
    left.set(title="growing momentum", xlim=(1, STEPS))
    right.set(title="decaying learning rate")
    right.legend(frameon=False, fontsize="small", loc="center right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
