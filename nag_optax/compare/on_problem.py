"""The comparison on a function of two variables."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nag_optax.compare.comparison import Comparison
from nag_optax.compare.figures import draw_problem
from nag_optax.compare.problems import descend, make_problem, score
from nag_optax.compare.report import counted
from nag_optax.compare.search import Contender, Trial, doubling_rung
from nag_optax.compare.spec import GAPS, ProblemSpec


class OnProblem(Comparison[ProblemSpec]):
    """Descends once at each learning rate. The best needs the fewest steps."""

    runs_a_rate = 1
    grid_size = 7

    def __init__(self, *args: Any):
        super().__init__(*args)
        problem = self.problem = make_problem(self.spec.problem)
        self.title = f"{problem.title}: {counted(self.spec.num_steps, 'step')}"
        self.facts = {"start": problem.start, "solution": problem.solution, "curvature": problem.curvature}
        self.explanation = (
            "The columns count the steps after which f(x) − f* stays within that share of f(x₀) − f*. The "
            f"learning rate is the one that needs the fewest to {GAPS[-1]:g}, or else ends lowest. Gradients "
            f"are exact, in float64, from x₀ = {problem.start}, and x is the iterate to evaluate."
        )

    def run(self, contender: Contender, learning_rates: Sequence[float]) -> list[Trial]:
        self.check_interrupts()
        trials = descend(self.problem, contender, self.spec.schedule, self.spec.num_steps, learning_rates)
        self.progress.count_runs(len(trials))
        return trials

    def score(self, trial: Trial) -> tuple[float, float] | None:
        return score(trial)

    def rung(self, contender: Contender) -> Callable[[int], float]:
        return doubling_rung(self.problem.learning_rate(contender))

    def ending(self, result: dict[str, Any]) -> str:
        best = result["trials"][result["best"]]
        steps = best["steps_to_gap"][f"{GAPS[-1]:g}"]
        reached = "not reached" if steps is None else f"after {steps} steps"
        return f"learning rate {best['learning_rate']:<9.3g} gap {GAPS[-1]:g} {reached}"

    def draw(self, results: list[dict[str, Any]], path: Path) -> None:
        draw_problem(self.problem, results, self.title, path)
