"""Iterations, evaluations and time of each solver to each gap."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.convex.counting import Counted
from benchmarks.convex.problems import GAPS, Problem, minimum
from benchmarks.convex.solvers import Solver
from benchmarks.convex.tables import MAX_STEPS

_CHUNKS = (500, 4_000, MAX_STEPS)


def measure(
    problem: Problem, rounds: int, on_round: Callable[[], None], solvers: Sequence[Solver]
) -> dict[str, Any]:
    """What the table and the JSON file say of a problem."""
    least, first = minimum(problem), float(problem.objective(jnp.zeros(problem.size)))
    contenders = [solver for solver in solvers if solver.solves(problem)]
    steps = {
        s.name: _steps_to(s, problem, [least + gap * (first - least) for gap in GAPS]) for s in contenders
    }
    results = {s.name: [_evaluations(s, problem, n) for n in steps[s.name]] for s in contenders}
    for i in range(len(GAPS)):
        there = {s.name: n for s in contenders if (n := steps[s.name][i]) is not None}
        programs = {
            s.name: _contender(s.program(problem, problem.smooth, there[s.name]))
            for s in contenders
            if s.name in there
        }
        for name, timed in timing.interleaved_medians(programs, rounds, on_round).items():
            results[name][i]["milliseconds"] = 1e3 * timed.median
    return {"name": problem.name, "minimum": least, "gaps": list(GAPS), "solvers": results}


def _steps_to(solver: Solver, problem: Problem, targets: list[float]) -> list[int | None]:
    """Iterations until F is at most each target; None where `MAX_STEPS` do not suffice."""
    values = np.array([])
    for length in _CHUNKS:
        values = solver.trace(problem, length)
        if np.any(values <= targets[-1]):
            break
    below = [values <= target for target in targets]
    return [int(np.argmax(b)) + 1 if b.any() else None for b in below]


def _evaluations(solver: Solver, problem: Problem, steps: int | None) -> dict[str, Any]:
    counts: dict[str, Any] = {"iterations": steps, "gradients": None, "values": None, "milliseconds": None}
    if steps is None or solver.is_direct:
        return counts
    counted = Counted(problem.smooth)
    jax.block_until_ready(solver.program(problem, counted.fun, steps)())
    jax.effects_barrier()
    return counts | {"gradients": counted.gradients, "values": counted.values}


def _contender(program: Callable[[], Any]) -> timing.Repeated:
    jax.block_until_ready(program())

    def run(calls: int) -> None:
        for _ in range(calls):
            jax.block_until_ready(program())

    return run
