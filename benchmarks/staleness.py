"""What stale gradients cost: a server and 1 to 32 workers, simulated.

    python -m benchmarks.staleness --json staleness.json --figure staleness.png

A network learns the classes of a random one, from fresh examples. Each worker takes its gradient at the
parameters that it was sent last; meanwhile those of the others arrive. The times of a worker follow a gamma
distribution, and the order of the arrivals follows from them.
"""

import argparse
import heapq
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.options import Parser, positive, writable_file

UPDATES, MOMENTUM, RATE, BATCH, SEEDS = 8000, 0.9, 0.05, 64, 3
INPUTS, HIDDEN, CLASSES = 16, 64, 10
WORKERS = (1, 2, 4, 8, 16, 32)
SPREADS = {1.0: "equal workers", 4.0: "fourfold spread of speeds"}
COLUMNS = ("workers' speeds", "method", *(f"{n} worker{'s' * (n > 1)}" for n in WORKERS))
LEGEND = [
    "Each number is the mean training loss over the last 500 of 8000 updates: mean ± standard deviation over "
    "3 seeds. Guessing has 2.30.",
    "All have the same learning rate and momentum 0.9. Asynchronous SGD has ten times the rate, and no "
    "momentum.",
    "shared momentum: every gradient is added to one velocity, and Nesterov's lookahead is along it.",
    "fourfold spread: the mean times of the workers lie evenly between 1 and 4.",
]


class Contender(NamedTuple):
    """Of the table: how its server is made, and whether each worker has a velocity of its own."""

    label: str
    momentum: float
    own_velocities: bool

    def method(self, rate: float) -> Any:
        from nag_optax.parallel import dana_zero

        # A step of momentum m goes 1/(1 − m) times as far.
        return dana_zero(rate if self.momentum else rate / (1 - MOMENTUM), self.momentum)


CONTENDERS = (
    Contender("asynchronous SGD", 0.0, False),
    Contender("shared momentum", MOMENTUM, False),
    Contender("DANA-Zero", MOMENTUM, True),
)


def arrivals(workers: int, spread: float, updates: int, seed: int) -> Iterator[int]:
    """Who sends each gradient. Times have a standard deviation of a third of their mean."""
    import numpy as np

    rng = np.random.default_rng(seed)
    means = np.linspace(1, spread, workers)
    due = [(rng.gamma(9, means[i] / 9), i) for i in range(workers)]
    heapq.heapify(due)
    for _ in range(updates):
        now, i = heapq.heappop(due)
        heapq.heappush(due, (now + rng.gamma(9, means[i] / 9), i))
        yield i


def simulation(contender: Contender, workers: int, rate: float = RATE) -> Callable[[Any, Any], Any]:
    """(seeds, orders of arrivals) -> the loss of each seed's updates, all in one compiled scan."""
    import jax
    import jax.numpy as jnp
    import optax

    method = contender.method(rate)

    def network(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        sizes = [INPUTS, HIDDEN, CLASSES]
        keys = jax.random.split(key, len(sizes) - 1)
        shapes = zip(keys, sizes[:-1], sizes[1:], strict=True)
        return [(jax.random.normal(k, (n, m)) / n**0.5, jnp.zeros(m)) for k, n, m in shapes]

    def logits(params: Any, x: jax.Array) -> jax.Array:
        (w, b), (v, c) = params
        return jax.nn.relu(x @ w + b[None]) @ v + c[None]

    def loss(params: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params, x), labels))

    @jax.jit
    @jax.vmap
    def run(seed: jax.Array, order: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(seed), 3)
        teacher = network(keys[0])

        def update(carry: Any, step: Any) -> Any:
            state, parts, sent = carry
            worker, count = step
            slot = worker if contender.own_velocities else 0
            own = jax.tree.map(lambda rows: rows[slot], parts)
            at = jax.tree.map(lambda rows: rows[worker], sent)
            x = jax.random.normal(jax.random.fold_in(keys[2], count), (BATCH, INPUTS))
            value, gradient = jax.value_and_grad(loss)(at, x, jnp.argmax(logits(teacher, x), -1))
            state, own = method.receive(state, own, gradient)
            parts = jax.tree.map(lambda rows, row: rows.at[slot].set(row), parts, own)
            sent = jax.tree.map(lambda rows, row: rows.at[worker].set(row), sent, method.send(state))
            return (state, parts, sent), value

        state, part = method.join(method.init(network(keys[1])))
        rows = workers if contender.own_velocities else 1
        parts = jax.tree.map(lambda leaf: jnp.stack([leaf] * rows), part)
        sent = jax.tree.map(lambda leaf: jnp.stack([leaf] * workers), method.send(state))
        return jax.lax.scan(update, (state, parts, sent), (order, jnp.arange(len(order))))[1]

    return run


def measured(updates: int, on_run: Callable[[], None]) -> list[dict[str, Any]]:
    """One entry for each spread and contender: the losses of the seeds, by the number of workers."""
    import jax.numpy as jnp
    import numpy as np

    entries = [
        {"spread": spread, "method": contender.label, "losses": {}}
        for spread in SPREADS
        for contender in CONTENDERS
    ]
    for workers in WORKERS:
        for contender in CONTENDERS:
            run = simulation(contender, workers)
            for spread in SPREADS:
                entry = next(e for e in entries if (e["spread"], e["method"]) == (spread, contender.label))
                orders = [list(arrivals(workers, spread, updates, seed)) for seed in range(SEEDS)]
                losses = np.asarray(run(jnp.arange(SEEDS), jnp.asarray(orders)))
                entry["losses"][str(workers)] = losses[:, -(updates // 16) :].mean(1).tolist()
                on_run()
    return entries


def rows(entries: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Of the table: one for each entry."""
    table = []
    for i, entry in enumerate(entries):
        first = not i or entries[i - 1]["spread"] != entry["spread"]
        cells = (
            f"{statistics.fmean(losses):.3f} ± {statistics.stdev(losses):.3f}"
            for losses in (entry["losses"][str(n)] for n in WORKERS)
        )
        table.append((SPREADS[entry["spread"]] if first else "", entry["method"], *cells))
    return table


def draw(entries: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    from nag_optax.plot.style import BLUE, ORANGE, VERMILION

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = dict(zip(SPREADS, figure.subplots(1, 2, sharey=True), strict=True))
    colors = dict(zip((c.label for c in CONTENDERS), (ORANGE, VERMILION, BLUE), strict=True))
    for entry in entries:
        ax, label = panels[entry["spread"]], entry["method"]
        means = [statistics.fmean(entry["losses"][str(n)]) for n in WORKERS]
        ax.plot(WORKERS, means, "o-", color=colors[label], label=label)
        ax.set_title(SPREADS[entry["spread"]])
        ax.set_xscale("log", base=2)
        ax.set_xticks(WORKERS, map(str, WORKERS))
        ax.set_xlabel("workers")
    first = panels[1.0]
    first.set_ylabel("training loss")
    first.legend(frameon=False)
    figure.savefig(path, dpi=150)


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.staleness",
        description="Simulates a server with 1 to 32 workers, whose gradients are stale.",
    )
    parser.add_argument(
        "--updates", type=positive, default=UPDATES, metavar="N", help=f"at least 16 (default: {UPDATES})"
    )
    parser.add_argument("--figure", type=writable_file, metavar="FILE.png", help="draw the table")
    parser.add_json()
    options = parser.parse_args(args)
    if options.updates < 16:
        parser.error(f"--updates {options.updates}: must be at least 16")
    return options


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    from benchmarks import report

    count = len(WORKERS) * len(CONTENDERS) * len(SPREADS)
    with report.progress(f"{count} servers", count) as advance:
        entries = measured(options.updates, advance)
    result = report.environment() | {"updates": options.updates, "entries": entries}
    report.show(f"Training loss: {report.headline(result)}", COLUMNS, [rows(entries)])
    if options.figure:
        draw(entries, options.figure)
    if options.json:
        report.write_json(options.json, result)


if __name__ == "__main__":
    main()
