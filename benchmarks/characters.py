"""Which optimizer learns a small character model best, each at the learning rate of its own search.

    python -m benchmarks.characters --json benchmarks/results/characters.json

The text is the standard library's own sources. A validation part chooses the learning rate, which is
doubled and halved until the lowest mean loss lies between two higher ones. The table shows the loss on other
text, from runs of new seeds. Results of other optimizers in the file are kept, so that a run that was
interrupted goes on where it ended. With `--optimizers` and no name it times the steps alone.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.options import Parser, positive, writable_file

STEPS, EVALUATIONS, SEARCH_SEEDS, SEEDS, WEIGHT_DECAY = 600, 15, 3, 5, 1e-4
BASELINE = "optax.adamw"
COLUMNS = (
    "optimizer",
    "learning rate",
    "test loss",
    "less than AdamW's by",
    "steps to AdamW's loss",
    "bytes a parameter",
    "ms a step",
)
FIGURE = (BASELINE, "optax.nadamw", "optax.contrib.muon", "laprop", "muon")
LEGEND = [
    f"A transformer of two layers and 115,136 parameters takes {STEPS} steps of 16 windows. The learning "
    "rate rises linearly over a tenth of them, and a cosine then takes it to 0. Weight decay, where an "
    f"optimizer has it, is {WEIGHT_DECAY:g}.",
    "learning rate: the one with the lowest mean loss on the validation part.",
    f"test loss: in nats a character, mean ± standard deviation over {SEEDS} seeds that the search did not "
    "use. The differences from AdamW are between runs of the same seed.",
    "steps to AdamW's loss: the first evaluation at which the mean validation loss is at most the one that "
    f"AdamW ends with. There are {EVALUATIONS} evaluations.",
    "bytes a parameter: size of the optimizer's state.",
    "ms a step: the update and its application alone, on the model's own arrays; medians in turns.",
    "Both muons leave the embeddings and the head to Adam: optax's to AdamW, ours to NAdamW.",
    "one byte: the learning rate is the same as with a float32 state.",
    "snoo is evaluated at its parameters, the others at the iterate that `eval_params` gives.",
]


class Contender(NamedTuple):
    """An optimizer.

    Attributes:
        make: from the learning rate's schedule.
        centre: of the search for its learning rate.
        low_memory: whether it is trained with its state in one byte too.
        at_params: whether it is examined where it trains, and not at `eval_params`.
    """

    make: Callable[[Any], Any]
    centre: float = 8e-3
    low_memory: bool = False
    at_params: bool = False


def contenders() -> dict[str, Contender]:
    import optax
    import optax.contrib

    import nag_optax
    from nag_optax import Matrix

    stacks = ("attention", "attention_out", "up", "down")

    def dimensions(params: Any) -> Any:
        layers = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
        return {name: layers if name in stacks else None for name in params}

    def matrices(path: Any, leaf: Any) -> Matrix | None:
        del leaf
        return Matrix(rows=1, columns=2) if path[0].key in stacks else None

    def adamw(rate: Any) -> Any:
        return optax.adamw(rate, weight_decay=WEIGHT_DECAY)

    def laprop(rate: Any) -> Any:
        return nag_optax.laprop(rate, weight_decay=WEIGHT_DECAY)

    def theirs(rate: Any) -> Any:
        return optax.contrib.muon(
            rate,
            weight_decay=WEIGHT_DECAY,
            adam_weight_decay=WEIGHT_DECAY,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=dimensions,
        )

    found = {
        BASELINE: Contender(adamw, low_memory=True),
        "optax.nadamw": Contender(
            lambda rate: optax.nadamw(rate, weight_decay=WEIGHT_DECAY), low_memory=True
        ),
        "laprop": Contender(laprop, 1e-3, low_memory=True),
        "optax.contrib.muon": Contender(theirs),
        "muon": Contender(lambda rate: nag_optax.muon(rate, matrices=matrices, weight_decay=WEIGHT_DECAY)),
        "nadamw": Contender(lambda rate: nag_optax.nadamw(rate, weight_decay=WEIGHT_DECAY), low_memory=True),
        "adan": Contender(lambda rate: nag_optax.adan(rate, weight_decay=WEIGHT_DECAY), low_memory=True),
    }
    for name, inner, centre in (("adamw", adamw, 8e-3), ("laprop", laprop, 1e-3)):
        found |= {
            f"snoo({name})": Contender(
                lambda rate, inner=inner: nag_optax.snoo(inner(rate)), centre, at_params=True
            ),
            f"gpa({name}, mu_x=0.98)": Contender(
                lambda rate, inner=inner: nag_optax.gpa(inner(rate), 0.98), centre
            ),
            f"ema_nesterov({name})": Contender(
                lambda rate, inner=inner: nag_optax.ema_nesterov(inner(rate)), centre
            ),
        }
    for name, fallback in (("nadamw", nag_optax.nadamw), ("adamw", optax.adamw)):
        found[f"muon, {name} for the rest"] = Contender(
            lambda rate, fallback=fallback: nag_optax.muon(
                rate,
                matrices=matrices,
                weight_decay=WEIGHT_DECAY,
                fallback=fallback(rate, weight_decay=WEIGHT_DECAY),
            ),
            1.6e-2,
        )
    return found


def measured(contender: Contender, text: Any, steps: int) -> dict[str, Any]:
    """The search, and the losses of new seeds at the learning rate that it found."""
    import nag_optax
    from benchmarks import language
    from benchmarks.nadam import searched

    evaluated = (lambda state, params: params) if contender.at_params else nag_optax.eval_params
    evaluations = min(EVALUATIONS, steps)

    def losses(make: Callable[[Any], Any], rate: float) -> dict[str, Any]:
        seeds = range(SEARCH_SEEDS, SEARCH_SEEDS + SEEDS)
        train = language.trainer(make, text, seeds, steps, evaluations=evaluations, evaluated=evaluated)
        found = train(rate)
        return {"validation": found.validation.tolist(), "test": found.test.tolist()}

    train = language.trainer(contender.make, text, range(SEARCH_SEEDS), steps, evaluated=evaluated)
    result = searched(lambda rate: train(rate).validation[:, -1], contender.centre)
    rate = result["trials"][result["best"]]["learning_rate"]
    result |= {"state_bytes": state_bytes(contender.make), "losses": losses(contender.make, rate)}
    if contender.low_memory:
        make = lambda rate: nag_optax.low_memory(contender.make(rate))  # noqa: E731
        result["low_memory"] = {"state_bytes": state_bytes(make), "losses": losses(make, rate)}
    return result


def state_bytes(make: Callable[[Any], Any]) -> float:
    """Bytes of state a parameter of the model."""
    import jax

    from benchmarks import language

    params = jax.eval_shape(language.init, jax.random.key(0))
    state = jax.eval_shape(make(lambda _: 0.0).init, params)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return size / sum(leaf.size for leaf in jax.tree.leaves(params))


def milliseconds(repeats: int) -> dict[str, float]:
    """Of each optimizer's step, one-byte states included."""
    import jax

    import nag_optax
    from benchmarks import language, report, timing
    from benchmarks.contenders import jax_step

    grads = jax.tree.map(lambda leaf: leaf * 0.0, language.init(jax.random.key(0)))
    made = {}
    for name, contender in contenders().items():
        optimizer = contender.make(lambda _: 1e-3)
        made[name] = jax_step(optimizer, grads)[0]
        if contender.low_memory:
            made[low(name)] = jax_step(nag_optax.low_memory(optimizer), grads)[0]
    with report.progress("a step of each", repeats) as advance:
        timings = timing.interleaved_medians(made, repeats, advance)
    return {name: 1e3 * timed.median for name, timed in timings.items()}


def low(name: str) -> str:
    return f"{name}, one byte"


def shown(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Learning rate, losses, bytes of each row of the table."""
    found = {}
    for name, entry in result["optimizers"].items():
        rate = entry["trials"][entry["best"]]["learning_rate"]
        found[name] = {"learning_rate": rate, **entry["losses"], "state_bytes": entry["state_bytes"]}
        if "low_memory" in entry:
            one = entry["low_memory"]
            found[low(name)] = {"learning_rate": rate, **one["losses"], "state_bytes": one["state_bytes"]}
    return found


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """One for each optimizer, the lowest test loss first."""
    found = shown(result)
    base = [seed[-1] for seed in found[BASELINE]["test"]]
    goal = _means(found[BASELINE]["validation"])[-1]
    table = []
    for name, entry in found.items():
        losses = [seed[-1] for seed in entry["test"]]
        gain = [b - x for b, x in zip(base, losses, strict=True)]
        curve = _means(entry["validation"])
        reached = [i for i, mean in enumerate(curve) if mean <= goal]
        every = result["steps"] // len(curve)
        row = (
            f"`{name}`",
            f"{entry['learning_rate']:g}",
            f"{statistics.fmean(losses):.3f} ± {statistics.stdev(losses):.3f}",
            "" if name == BASELINE else f"{statistics.fmean(gain):.3f} ± {statistics.stdev(gain):.3f}",
            str(every * (reached[0] + 1)) if reached else "not reached",
            f"{entry['state_bytes']:.2f}",
            f"{result['milliseconds'][name]:.2f}" if name in result["milliseconds"] else "",
        )
        table.append((statistics.fmean(losses), row))
    return [row for _, row in sorted(table)]


def draw(result: dict[str, Any], path: Path) -> None:
    """The validation loss over the steps."""
    import numpy as np
    from matplotlib import pyplot

    from nag_optax.plot.style import BLACK, BLUE, GREY, VERMILION, bare, save

    styles = dict(
        zip(FIGURE, ((GREY, "-"), (GREY, "--"), (BLACK, ":"), (VERMILION, "-"), (BLUE, "-")), strict=True)
    )
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    every = result["steps"] // EVALUATIONS
    steps = every * (1 + np.arange(EVALUATIONS))
    for name, (color, line) in styles.items():
        losses = np.array(result["optimizers"][name]["losses"]["validation"])
        mean = losses.mean(0)
        axes.plot(steps, mean, line, color=color, lw=1.7, label=f"{name}, {mean[-1]:.2f} at the end")
        axes.fill_between(steps, losses.min(0), losses.max(0), color=color, alpha=0.15, lw=0)
    axes.set(xlabel="step", ylabel="validation loss, nats a character", ylim=(None, 3.0))
    bare(axes)
    axes.legend(frameon=False, fontsize="small")
    save(figure, path, dpi=200)
    pyplot.close(figure)


def _means(curves: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(values) for values in zip(*curves, strict=True)]


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.characters",
        description="Trains a small character model with each optimizer at its best learning rate.",
    )
    parser.add_argument("--optimizers", nargs="*", metavar="NAME", help="default: those not in the file yet")
    parser.add_argument(
        "--steps", type=positive, default=STEPS, metavar="N", help=f"of each run (default: {STEPS})"
    )
    parser.add_argument(
        "--repeats", type=positive, default=21, metavar="N", help="samples of a step's time (default: 21)"
    )
    parser.add_argument("--json", type=writable_file, metavar="FILE", required=True, help="where to write it")
    options = parser.parse_args(args)
    if unknown := [name for name in options.optimizers or () if name not in contenders()]:
        parser.error(f"--optimizers: {unknown[0]!r} is none of {', '.join(contenders())}")
    return options


def main(args: list[str] | None = None) -> None:
    from benchmarks import language, report

    options = parse(args)
    found: dict[str, Any] = (
        json.loads(options.json.read_text())["optimizers"] if options.json.exists() else {}
    )
    text = language.standard_library()
    names = options.optimizers
    if names is None:
        names = [name for name in contenders() if name not in found]
    result = report.environment() | {"steps": options.steps, "repeats": options.repeats}
    with report.progress("optimizers", len(names)) as advance:
        for name in names:
            found[name] = measured(contenders()[name], text, options.steps)
            ordered = {name: found[name] for name in contenders() if name in found}
            result |= {"optimizers": ordered, "milliseconds": {}}
            report.write_json(options.json, result)
            report.note(f"{name}: {statistics.fmean(s[-1] for s in found[name]['losses']['test']):.3f}")
            advance()
    ordered = {name: found[name] for name in contenders() if name in found}
    result |= {"optimizers": ordered, "milliseconds": milliseconds(options.repeats)}
    report.write_json(options.json, result)
    if BASELINE in ordered:
        report.show(f"Character model: {report.headline(result)}", COLUMNS, [rows(result)])
    if all(name in ordered for name in FIGURE):
        draw(result, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
