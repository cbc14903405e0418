"""Convex problems: this package beside JAXopt, optax.lbfgs, scikit-learn and SciPy, in float64.

    python -m benchmarks.convex

For each problem and solver: iterations, evaluations of gradient and value, and milliseconds until
F(x) − F* is 1e-6 and 1e-9 of F(0) − F*; the times are interleaved medians of one run. Then the
scaling test: a lasso whose L goes from 0.1 to 1e9, in float32 and float64.
"""

import argparse
import importlib.util
from typing import Any

from benchmarks.options import Parser, positive


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.convex",
        description="Convex problems: this package beside JAXopt, optax.lbfgs, scikit-learn and SciPy.",
    )
    parser.add_argument(
        "--repeats", type=positive, default=9, metavar="N", help="samples of each time (default: 9)"
    )
    parser.add_json()
    return parser.parse_args(args)


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    if importlib.util.find_spec("jaxopt") is None:
        raise SystemExit("benchmarks.convex: jaxopt is not installed; pip install '.[bench]'")
    import jax

    jax.config.update("jax_enable_x64", True)
    from benchmarks import report
    from benchmarks.convex import measure, problems, scaling, solvers, tables

    measured = []
    for problem in problems.problems():
        with report.progress(problem.name, options.repeats * len(problems.GAPS)) as advance:
            measured.append(measure.measure(problem, options.repeats, advance, solvers.solvers()))
    outcomes = []
    with report.progress(
        "lasso 500×600 at eleven scales, two precisions", 2 * len(scaling.SCALES)
    ) as advance:
        outcomes = scaling.measure(advance)
    result: dict[str, Any] = report.environment() | {
        "repeats": options.repeats,
        "problems": measured,
        "scaling": outcomes,
    }
    report.note(report.headline(result))
    for title, columns, groups in tables.of(result):
        report.show(title, columns, groups)
        print()
    if options.json:
        report.write_json(options.json, result)


if __name__ == "__main__":
    main()
