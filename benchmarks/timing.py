"""Interleaved medians, and the time that the machine's memory alone would need.

Everything that is compared is timed in one run, in turns: what disturbs the machine for a while
disturbs every contender alike, so the ratios are steadier than the times.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from math import ceil
from typing import NamedTuple

import jax
import jax.numpy as jnp

Repeated = Callable[[int], None]
"""`run(n)` does the work n times and returns when the device has finished."""

SAMPLE_SECONDS = 0.02
MAX_CALLS = 1000


class Timing(NamedTuple):
    """Seconds a call: the median over the rounds, its quartiles, and the calls in one sample."""

    median: float
    lower_quartile: float
    upper_quartile: float
    calls: int

    def scaled(self, factor: float) -> "Timing":
        """The same for work that takes that many times as long."""
        median, lower, upper, calls = self
        return Timing(factor * median, factor * lower, factor * upper, calls)


def interleaved_medians(
    contenders: Mapping[str, Repeated],
    rounds: int,
    on_round: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times every contender once a round.

    A sample is as many calls as last 20 ms, after one call that is not timed: it fills the caches
    and lets the threads of the contender before fall asleep. The order is shuffled in every round,
    lest one contender always finds the caches and the threads that the same other one left.

    Args:
        contenders: what to time, by name. Each must have compiled already.
        rounds: samples of each contender.
        on_round: called after each round, for a progress bar.
        clock: `time.process_time` where one core is all that a contender has, and other programs use it too.
    """
    names, order = list(contenders), random.Random(0)
    calls = {name: _calls_in_a_sample(contenders[name], clock) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        order.shuffle(names)
        for name in names:
            contenders[name](1)
            samples[name].append(_seconds(contenders[name], calls[name], clock) / calls[name])
        on_round()
    return {name: summary(samples[name], calls[name]) for name in contenders}


def memory_pass(num_floats: int) -> tuple[Repeated, int]:
    """The plainest pass over memory, and the bytes that it moves a call.

    `x + 1` on one flat float32 array of that size, jitted with x donated: it reads and writes every
    element once, in place. Bytes over seconds is the bandwidth that the machine's memory gives.
    """
    x = jnp.full(num_floats, 0.0)
    move = jax.jit(lambda x: x + 1.0, donate_argnums=0).lower(x).compile()

    def run(calls: int) -> None:
        nonlocal x
        for _ in range(calls):
            x = move(x)
        jax.block_until_ready(x)

    return run, 2 * num_floats * x.dtype.itemsize


def _calls_in_a_sample(contender: Repeated, clock: Callable[[], float]) -> int:
    contender(1)
    seconds = min(_seconds(contender, 1, clock) for _ in range(3))
    return min(MAX_CALLS, max(1, ceil(SAMPLE_SECONDS / seconds)))


def _seconds(contender: Repeated, calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    contender(calls)
    return clock() - start


def summary(samples: list[float], calls: int = 1) -> Timing:
    """Median and quartiles of the seconds a call."""
    both = samples if len(samples) > 1 else samples * 2
    lower, _, upper = statistics.quantiles(both, n=4, method="inclusive")
    return Timing(statistics.median(samples), lower, upper, calls)
