"""A small character model of the standard library's own sources, in plain JAX.

The text is at hand wherever Python is: the modules directly in the library's folder, in the order of their
names, up to a length. A transformer of two layers learns it, many runs in one compiled program.
"""

import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nag_optax import eval_params

Params = Any
"""A tree of arrays."""

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
"""Every other character is one more."""
VOCABULARY = len(CHARACTERS) + 1
TEXT_LENGTH = 1_300_000
PARTS = 6
"""One character of so many is held out: the end of the text."""

WIDTH, HEADS, LAYERS, CONTEXT = 64, 4, 2, 64
BATCH_SIZE = 16
WINDOWS = 512


class Text(NamedTuple):
    """Codes of the characters, uint8."""

    train: np.ndarray
    held_out: np.ndarray


def standard_library(length: int = TEXT_LENGTH) -> Text:
    """The sources of the running Python."""
    folder = Path(sysconfig.get_path("stdlib"))
    text = "".join(path.read_text("utf-8") for path in sorted(folder.glob("*.py")))[:length]
    table = {character: code for code, character in enumerate(CHARACTERS)}
    codes = np.array([table.get(character, VOCABULARY - 1) for character in text], np.uint8)
    return Text(*np.split(codes, [len(codes) - len(codes) // PARTS]))


def init(key: jax.Array) -> Params:
    """Weights of variance 1/fan-in; what ends a residual branch starts at 0."""

    def normal(*shape: int) -> jax.Array:
        nonlocal key
        key, now = jax.random.split(key)
        return jax.random.normal(now, shape) / shape[-2] ** 0.5

    return {
        "embedding": normal(VOCABULARY, WIDTH) * (VOCABULARY / WIDTH) ** 0.5,
        "position": normal(CONTEXT, WIDTH) * (CONTEXT / WIDTH) ** 0.5,
        "attention": normal(LAYERS, WIDTH, 3 * WIDTH),
        "attention_out": jnp.zeros((LAYERS, WIDTH, WIDTH)),
        "up": normal(LAYERS, WIDTH, 4 * WIDTH),
        "down": jnp.zeros((LAYERS, 4 * WIDTH, WIDTH)),
        "scales": jnp.ones((LAYERS, 2, WIDTH)),
        "scale": jnp.ones(WIDTH),
        "head": normal(WIDTH, VOCABULARY),
    }


def logits(params: Params, codes: jax.Array) -> jax.Array:
    """Of the character after each, (batch, time, VOCABULARY)."""
    batch, time = codes.shape
    x = params["embedding"][codes] + params["position"][:time]
    for layer in range(LAYERS):
        scales = params["scales"][layer]
        mixed = _normalised(x, scales[0]) @ params["attention"][layer]
        query, key, value = jnp.split(mixed.reshape(batch, time, 3 * HEADS, -1), 3, axis=2)
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        x = x + attended.reshape(batch, time, -1) @ params["attention_out"][layer]
        hidden = jax.nn.gelu(_normalised(x, scales[1]) @ params["up"][layer])
        x = x + hidden @ params["down"][layer]
    return _normalised(x, params["scale"]) @ params["head"]


def loss(params: Params, windows: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats a character; windows (batch, CONTEXT + 1)."""
    scores = logits(params, windows[:, :-1])
    each = optax.softmax_cross_entropy_with_integer_labels(scores, windows[:, 1:].astype(int))
    return jnp.mean(each)


def schedule(peak: float | jax.Array, steps: int) -> optax.Schedule:
    """A linear rise over a tenth of the steps, then a cosine to 0."""
    warmup = max(1, steps // 10)

    def rate(count: Any) -> jax.Array:
        rise = (count + 1) / warmup
        fall = 0.5 * (1 + jnp.cos(jnp.pi * (count - warmup) / (steps - warmup)))
        return peak * jnp.where(rise < 1, rise, fall)

    return rate


class Losses(NamedTuple):
    """Of each seed at each evaluation, (seeds, evaluations)."""

    validation: np.ndarray
    test: np.ndarray


def trainer(
    make: Callable[[optax.Schedule], optax.GradientTransformation],
    text: Text,
    seeds: Sequence[int],
    steps: int,
    *,
    evaluations: int = 1,
    evaluated: Callable[[Any, Params], Params] = eval_params,
) -> Callable[[float], Losses]:
    """A function from the peak learning rate to the losses of each seed, compiled once.

    Args:
        make: an optimizer from its learning rate's schedule.
        text: the model learns one part of it, and is examined on the other.
        seeds: one run each: its initialisation and its batches.
        steps: of each run, a multiple of `evaluations`.
        evaluations: how many there are, evenly spaced; the last one comes after the last step.
        evaluated: the parameters to examine, from the optimizer's state and the parameters.
    """
    codes = jnp.asarray(text.train)
    validation, test = windows(text)

    def run(peak: jax.Array, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
        optimizer = optax.with_extra_args_support(make(schedule(peak, steps)))
        start, batches = jax.random.split(jax.random.key(seed))
        params = init(start)

        def body(carry: tuple[Params, Any], step: jax.Array):
            params, state = carry
            key = jax.random.fold_in(batches, step)
            first = jax.random.randint(key, (BATCH_SIZE, 1), 0, len(text.train) - CONTEXT)
            grads = jax.grad(loss)(params, codes[first + jnp.arange(CONTEXT + 1)])
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        def part(carry: tuple[Params, Any], steps: jax.Array):
            (params, state), _ = jax.lax.scan(body, carry, steps)
            examined = evaluated(state, params)
            return (params, state), (loss(examined, validation), loss(examined, test))

        parts = jnp.arange(steps).reshape(evaluations, -1)
        return jax.lax.scan(part, (params, optimizer.init(params)), parts)[1]

    lanes = jax.jit(jax.vmap(run, in_axes=(None, 0)))
    return lambda peak: Losses(*map(np.asarray, lanes(jnp.float32(peak), jnp.array(seeds))))


def windows(text: Text) -> tuple[jax.Array, jax.Array]:
    """WINDOWS windows for validation, (…, CONTEXT + 1), evenly spaced, and the test windows between them."""
    held_out = text.held_out
    firsts = np.linspace(0, len(held_out) - CONTEXT - 1, 2 * WINDOWS - 1).astype(int)
    both = held_out[firsts[:, None] + np.arange(CONTEXT + 1)]
    return jnp.asarray(both[::2]), jnp.asarray(both[1::2])


def _normalised(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * scale
