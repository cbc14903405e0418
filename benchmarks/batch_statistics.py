"""Compares running batch statistics with those of one pass over the training images, at x and at p.

    python -m benchmarks.batch_statistics --json batch_statistics.json

Training computes batch statistics at p, where the gradients are; x is evaluated with them. And a running
average lags behind where the parameters move fast. Here both are measured, in the test loss.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

from benchmarks.options import Parser, positive

LEARNING_RATES = {0.9: 1.0, 0.99: 0.1}
"""Shares of the default, by momentum, so that a gradient moves the parameters as far in the end."""
COLUMNS = ("data", "momentum", "epochs", "iterate", "test loss", "running − recomputed")
NOTES = [
    "test loss: the cnn's, with the running statistics that `nag-optax evaluate` uses; mean over the seeds.",
    "running − recomputed: how much lower the test loss is with statistics from one pass over the training "
    "batches at the same point; mean ± standard deviation over the seeds.",
    "x is the iterate to evaluate. Gradients and batch statistics are computed at p.",
]


def parse(args: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m benchmarks.batch_statistics",
        description="Compares running batch statistics with recomputed ones.",
        legend="\n".join(NOTES),
    )
    parser.add_argument("--seeds", type=positive, default=5, metavar="N", help="runs of each (default: 5)")
    parser.add_argument(
        "--epochs", type=positive, default=5, metavar="N", help="measured after 1 and after N (default: 5)"
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="pictures in folders of classes, instead of digits"
    )
    parser.add_json()
    return parser.parse_args(args)


def recomputed(model: Any, dataset: Any, batch_size: int) -> Any:
    """The model with the mean of the statistics of all training batches."""
    import jax
    import numpy as np
    from flax import nnx

    graphdef, mean, rest = nnx.split(model, nnx.BatchStat, ...)

    @jax.jit
    def with_batch(mean: Any, images: jax.Array, share: jax.Array) -> Any:
        # A copy, whose variables the model may write.
        model = nnx.merge(graphdef, jax.tree.map(lambda m: m, mean), rest)
        for _, module in nnx.iter_graph(model):
            if isinstance(module, nnx.BatchNorm):
                module.momentum = 0.0  # The statistics become those of the batch.
        model(dataset.statistics.standardise(images), train=True, rngs=nnx.Rngs(dropout=0))
        return jax.tree.map(lambda m, x: m + share * (x - m), mean, nnx.state(model, nnx.BatchStat))

    order = np.random.default_rng(0).permutation(len(dataset.train.labels))
    for i in range(len(order) // batch_size):
        rows = order[i * batch_size : (i + 1) * batch_size]
        # The mean of the first i + 1 batches.
        mean = with_batch(mean, dataset.train.images[rows], np.float32(1 / (i + 1)))
    return nnx.merge(graphdef, mean, rest)


def measured(options: Any, epochs: int) -> dict[int, dict[str, dict[str, float]]]:
    """Test losses after 1 and after so many epochs, at both iterates, with both kinds of statistics."""
    from nag_optax.train.data import load_dataset
    from nag_optax.train.loop import Loop
    from nag_optax.train.parallel import find_devices
    from nag_optax.train.spec import resolve

    spec = resolve(options)
    dataset = load_dataset(spec)
    loop = Loop(spec, dataset, find_devices("auto", 1))
    state, losses = loop.init(), {}
    for epoch in range(1, epochs + 1):
        state = loop.run_chunk(state, loop.steps_per_epoch)
        if epoch in (1, epochs):
            # Without a state of the optimizer, the iterate to evaluate is p.
            iterates = {"x": loop.module(state), "p": loop.module(state._replace(opt_state=()))}
            losses[epoch] = {
                name: {
                    "running": loop.evaluate_model(model, dataset.test).loss,
                    "recomputed": loop.evaluate_model(
                        recomputed(model, dataset, spec.batch_size), dataset.test
                    ).loss,
                }
                for name, model in iterates.items()
            }
    return losses


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Of the table: one for each momentum, epoch and iterate."""
    return [
        (
            result["data"],
            momentum,
            epoch,
            iterate,
            f"{statistics.mean(loss['running'] for loss in losses):.4f}",
            difference([loss["running"] - loss["recomputed"] for loss in losses]),
        )
        for momentum, epochs in result["losses"].items()
        for epoch, iterates in epochs.items()
        for iterate, losses in iterates.items()
    ]


def difference(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):+.4f}{spread}"


def main(args: list[str] | None = None) -> None:
    options = parse(args)
    from benchmarks import report
    from nag_optax.train.options import Options
    from nag_optax.train.spec import resolve

    data = {"dataset": "folder", "data_dir": options.data_dir} if options.data_dir else {}
    base = Options(**data, model="cnn", optimizer="nag", num_epochs=options.epochs)
    rate = resolve(base).learning_rate
    losses: dict[str, Any] = {}
    with report.progress("training", options.seeds * len(LEARNING_RATES)) as advance:
        for momentum, share in LEARNING_RATES.items():
            collected = losses[str(momentum)] = {}
            for seed in range(options.seeds):
                run = dataclasses.replace(base, seed=seed, momentum=momentum, learning_rate=rate * share)
                for epoch, iterates in measured(run, options.epochs).items():
                    for iterate, loss in iterates.items():
                        collected.setdefault(str(epoch), {}).setdefault(iterate, []).append(loss)
                advance()
    name = options.data_dir.name if options.data_dir else "digits"
    result = report.environment() | {
        "data": name,
        "seeds": options.seeds,
        "epochs": options.epochs,
        "losses": losses,
    }
    report.show(f"Batch statistics: {report.headline(result)}", COLUMNS, [rows(result)])
    if options.json:
        report.write_json(options.json, result)


if __name__ == "__main__":
    main()
