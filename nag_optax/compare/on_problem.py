"""The comparison on a function of two variables."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nag_optax.compare.comparison import Comparison
from nag_optax.compare.figures import draw_problem
from nag_optax.compare.problems import descend, make_problem, score
from nag_optax.compare.search import Contender, Trial, doubling_rung
from nag_optax.compare.spec import GAPS, ProblemSpec
from nag_optax.compare.table import counted


class OnProblem(Comparison[ProblemSpec]):
    """One descent at each learning rate; the best needs the fewest steps."""

    runs_a_rate = 1
    grid_size = 7

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.problem = make_problem(self.spec.problem)
        self.title = f"{self.problem.title}: {counted(self.spec.num_steps, 'step')}"

    def run(self, contender: Contender, learning_rates: Sequence[float]) -> list[Trial]:
        self.check_interrupts()
        trials = descend(self.problem, contender, self.spec.schedule, self.spec.num_steps, learning_rates)
        self.progress.advance(len(trials))
        return trials

    def score(self, trial: Trial) -> tuple[float, float] | None:
        return score(trial)

    def rung(self, contender: Contender) -> Callable[[int], float]:
        return doubling_rung(self.problem.learning_rate(contender))

    def at_best(self, contender: Contender, best: Trial | None) -> dict[str, Any]:
        return {}

    def measure(self, results: list[dict[str, Any]]) -> None:
        """Nothing: a step on two parameters takes no time that would tell."""

    def line(self, result: dict[str, Any]) -> str:
        label = f"{result['label']:<20}"
        if result["best"] is None:
            return f"{label} {result['note']}"
        best = result["trials"][result["best"]]
        steps = best["steps_to_gap"][f"{GAPS[-1]:g}"]
        reached = "not reached" if steps is None else f"after {steps} steps"
        return f"{label} learning rate {best['learning_rate']:<9.3g} gap {GAPS[-1]:g} {reached}"

    def facts(self) -> dict[str, Any]:
        problem = self.problem
        return {"start": problem.start, "solution": problem.solution, "curvature": problem.curvature}

    def explanation(self) -> str:
        return (
            "Steps after which f(x) − f* stays within that share of f(x₀) − f*, at the learning rate that "
            f"needs the fewest to {GAPS[-1]:g}, or else ends lowest. Exact gradients, in float64, from "
            f"x₀ = {self.problem.start}. x is the iterate to evaluate."
        )

    def draw(self, results: list[dict[str, Any]], path: Path) -> None:
        draw_problem(self.problem, results, self.title, path)
