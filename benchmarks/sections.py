"""What the page of benchmarks shows of each kind of result: a heading, commands, tables and a legend."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks import (
    airbench,
    batch_statistics,
    characters,
    cifar,
    comparison,
    device,
    first_step,
    memory,
    muon,
    nadam,
    parallel,
    report,
    schedules,
    staleness,
    startup,
    step,
    streaming,
    training,
    tuning,
)
from benchmarks.convex import large
from benchmarks.convex import tables as convex

LOOP_MILLISECONDS = {
    "ResNet-50": (0.434, 0.318, 0.198),
    "GPT-2 small": (1.101, 1.001, 0.857),
    "400 leaves of 1000 numbers": (0.446, 0.288, 0.027),
}
"""A step of nag in a loop on an H100: a kernel a leaf; one for small leaves of a shape; one array."""


class Section(NamedTuple):
    """Of the page.

    Attributes:
        title: its heading.
        commands: what measures again, line by line; FILE stands for the file of the result.
        tables: Markdown, each with what stands above it.
        legend: how to read them, line by line.
    """

    title: str
    commands: Sequence[str]
    tables: list[str]
    legend: Sequence[str]


def of_step(result: dict[str, Any]) -> Section:
    names = [entry["tree"] for entry in result["trees"]]
    trees = "" if names == step.DEFAULT_TREES else f" --trees {' '.join(names)}"
    backend = result["machine"]["backend"].upper()
    looped = any("compiled loop" in name for entry in result["trees"] for name in entry["methods"])
    legend = [line for line in step.LEGEND.splitlines() if looped or not line.startswith("compiled loop")]
    return Section(
        f"One update step on a {backend}",
        [f"python -m benchmarks.step{trees} --repeats {result['repeats']} --json FILE"],
        [report.markdown_table(step.COLUMNS, [step.rows(entry) for entry in result["trees"]])],
        [*legend, *(cost_of_calls(result) if backend == "GPU" else [])],
    )


def cost_of_calls(result: dict[str, Any]) -> list[str]:
    """What a step costs when Python calls it, and when a compiled loop does."""
    (entry,) = (entry for entry in result["trees"] if entry["tree"] == "resnet50")
    called, torch = entry["methods"]["nag"], entry["methods"]["torch fused"]
    times = (
        f"{name}: {', '.join(f'{time:.2f}' for time in times)} ms."
        for name, times in LOOP_MILLISECONDS.items()
    )
    return [
        f"Calls: a step called from Python costs {called['milliseconds']:.2f} ms for ResNet-50's "
        f"{entry['leaves']} leaves, {torch['nag_ratio']:.1f} times torch's {torch['milliseconds']:.2f} ms, "
        "because JAX takes that long to pass so many arrays. A compiled loop, as in `nag-optax train`, "
        "passes them once.",
        "Loops: a prototype on the same kind of card timed a step in a compiled loop in three forms. They "
        "are a kernel for each leaf, one kernel for all small leaves of a shape (as now), and one flat array "
        f"of the same size (the bound). {' '.join(times)}",
    ]


def of_memory(result: dict[str, Any]) -> Section:
    names = [entry["tree"] for entry in result.get("trees", [])]
    trees = "" if names in ([], memory.DEFAULT_TREES) else f" --trees {' '.join(names)}"
    part = " --data-dir DIR" if "losses" in result else " --only steps"
    return Section(
        f"Low-memory state on a {result['machine']['backend'].upper()}",
        [f"python -m benchmarks.memory{trees}{_repeats(result)}{part} --json FILE"],
        [
            f"{title}:\n\n{report.markdown_table(columns, groups)}"
            for title, columns, groups in memory.tables(result)
        ],
        [*memory.LEGEND.splitlines(), *([result["note"]] if "note" in result else [])],
    )


def of_training(result: dict[str, Any]) -> Section:
    dataset = result["dataset"]
    data = "" if dataset == "digits" else f" --dataset {dataset} --data-dir DIR"
    options = f"{data} --model {result['model']} --steps {result['steps']}{_repeats(result)}"
    taskset = "taskset -c 0 " if result.get("processor_time") else ""
    return Section(
        f"One epoch of training: {result['dataset']}, {result['model']}",
        [f"{taskset}python -m benchmarks.training{options} --json FILE"],
        [report.markdown_table(training.COLUMNS, [training.rows(result)])],
        [
            "s an epoch: median and quartiles, scaled from the steps that were timed to an epoch.",
            *(["Time of the processor, on one core."] if result.get("processor_time") else []),
            *([] if training.COMPILED in result["loops"] else ["torch.compile was not timed."]),
            *training.goal(result),
        ],
    )


def of_startup(result: dict[str, Any]) -> Section:
    return Section(
        "Import and `--help`",
        [f"python -m benchmarks.startup --repeats {result['repeats']} --json FILE"],
        [report.markdown_table(startup.COLUMNS, [startup.rows(result)])],
        startup.LEGEND.splitlines(),
    )


def of_first_step(result: dict[str, Any]) -> Section:
    return Section(
        "From the command to the first epoch",
        [f"python -m benchmarks.first_step{_repeats(result)} --json FILE"],
        [report.markdown_table(first_step.COLUMNS, [first_step.rows(result)])],
        first_step.LEGEND.splitlines(),
    )


def of_convex(result: dict[str, Any]) -> Section:
    tables = [
        f"{title}:\n\n{report.markdown_table(columns, groups)}"
        for title, columns, groups in convex.of(result)
    ]
    return Section(
        "Convex problems", [f"python -m benchmarks.convex{_repeats(result)} --json FILE"], tables, []
    )


def of_large(result: dict[str, Any]) -> Section:
    return Section(
        "Large convex problems",
        [f"python -m benchmarks.convex.large{_repeats(result)} --json FILE"],
        [report.markdown_table(large.COLUMNS, [large.rows(entry) for entry in result["problems"]])],
        large.LEGEND,
    )


def of_comparison(result: dict[str, Any]) -> Section:
    """Of `nag-optax compare`: its `comparison.json`, as benchmarks/results/comparison-NAME.json."""
    from nag_optax.compare.report import counted, markdown_table, notes, rows

    config = result["config"]
    folder = f"runs/compare-{config['dataset']}-{config['model']}"
    head, body = rows(config["target"], result["optimizers"])
    return Section(
        f"Optimizers: {result.get('about', config['dataset'])}, {config['model']}",
        [
            f"{comparison.command(config)} --run-dir {folder}",
            f"python -m benchmarks.comparison {folder} --json FILE",
        ],
        [markdown_table(head, body)],
        [
            tuning.RULE.format("learning rate"),
            f"Other columns: trained on all of them, mean ± standard deviation over "
            f"{counted(config['seeds'], 'seed')}.",
            *notes(result["optimizers"]),
        ],
    )


def of_tuning(result: dict[str, Any]) -> Section:
    name, _, how = tuning.title(result).partition(": ")
    return Section(
        f"Learning rates: {name}",
        tuning.commands(result),
        [f"{how[0].upper()}{how[1:]}:", tuning.table(result)],
        tuning.notes(result),
    )


def of_muon(result: dict[str, Any]) -> Section:
    names = [entry["matrices"] for entry in result["costs"]]
    measured = dict.fromkeys(entry["dtype"] for entry in result["entries"])
    dtypes = "" if tuple(measured) == muon.DTYPES else f" --dtypes {' '.join(measured)}"
    backend = result["machine"]["backend"].upper()
    return Section(
        f"One step of Muon on a {backend}",
        [f"python -m benchmarks.muon --matrices {' '.join(names)}{dtypes}{_repeats(result)} --json FILE"],
        [
            report.markdown_table(muon.COLUMNS, [muon.rows(entry) for entry in result["entries"]]),
            report.markdown_table(muon.COST_COLUMNS, [muon.cost_rows(entry) for entry in result["costs"]]),
        ],
        muon.LEGEND.splitlines(),
    )


def of_schedules(result: dict[str, Any]) -> Section:
    dataset = result["dataset"]
    data = "" if dataset == "digits" else f" --dataset {dataset} --data-dir DIR"
    options = f"{data} --model {result['model']} --num-epochs {result['epochs']}"
    return Section(
        f"Schedules and the iterate: {dataset}, {result['model']}, {result['epochs']} epochs",
        [f"python -m benchmarks.schedules{options} --json FILE"],
        [report.markdown_table(schedules.COLUMNS, [schedules.rows(result["pairs"])], text=(0, 1, 2))],
        schedules.LEGEND,
    )


def of_streaming(result: dict[str, Any]) -> Section:
    if "waiting_seconds" in result:
        options = f"--workers {result['workers']} --train {result['steps']}"
        command = f"python -m benchmarks.streaming --data-dir DIR {options} --json FILE"
        return Section("Training from a streamed folder", [command], [streaming.sentence(result)], [])
    options = f"--workers {' '.join(result['workers'])} --batches {result['batches']}{_repeats(result)}"
    return Section(
        "Pictures from a folder",
        [f"python -m benchmarks.streaming --data-dir DIR {options} --json FILE"],
        [report.markdown_table(streaming.COLUMNS, [streaming.rows(result)])],
        streaming.LEGEND.splitlines(),
    )


def of_nadam(result: dict[str, Any]) -> Section:
    groups = [nadam.rows(task) for task in result["tasks"].values()]
    return Section(
        "The variants of NAdamW",
        ["python -m benchmarks.nadam --data-dir DIR --json FILE"],
        [report.markdown_table(nadam.COLUMNS, groups, text=(0, 1, len(nadam.COLUMNS) - 1))],
        nadam.LEGEND,
    )


def of_characters(result: dict[str, Any]) -> Section:
    return Section(
        "A small character model",
        [f"python -m benchmarks.characters{_repeats(result)} --json FILE"],
        [report.markdown_table(characters.COLUMNS, [characters.rows(result)], text=(0,))],
        characters.LEGEND,
    )


def of_cifar(result: dict[str, Any]) -> Section:
    sizes = f"--train {result['train']} --test {result['test']} --num-epochs {result['epochs']}"
    decays = list(result["optimizers"])
    decay = f" --decay {decays[0]}" if len(decays) == 1 else ""
    options = f"--model {result['model']} {sizes}{_repeats(result)}{decay}"
    return Section(
        f"CIFAR-10 from a folder: {result['model']}",
        [f"python -m benchmarks.cifar --data-dir DIR {options} --json FILE"],
        [
            f"![Test loss over the epochs; dotted lines: at p.](cifar-{result['model']}.png)",
            report.markdown_table(cifar.COLUMNS, cifar.rows(result)),
            report.markdown_table(cifar.iterate_columns(result), [cifar.iterate_rows(result)]),
        ],
        [cifar.facts(result), *cifar.LEGEND],
    )


def of_airbench(result: dict[str, Any]) -> Section:
    options = " ".join(
        f"--{name} {result[name.replace('-', '_')]}"
        for name in ("num-epochs", "batch-size", "image-size", "train", "test", "seeds")
    )
    return Section(
        "The fast network for CIFAR-10 beside PyTorch",
        [f"python -m benchmarks.airbench --data-dir DIR {options} --json FILE"],
        [report.markdown_table(airbench.COLUMNS, [airbench.rows(result)], text=(0,))],
        [airbench.facts(result), *airbench.LEGEND],
    )


def of_staleness(result: dict[str, Any]) -> Section:
    figure = (
        "![Training loss against the number of workers: DANA-Zero's rises least; with SGD and a shared "
        "momentum it rises to the loss of guessing.](staleness.png)"
    )
    return Section(
        "Stale gradients, simulated",
        ["python -m benchmarks.staleness --figure benchmarks/results/staleness.png --json FILE"],
        [figure, report.markdown_table(staleness.COLUMNS, [staleness.rows(result["entries"])])],
        staleness.LEGEND,
    )


def of_batch_statistics(result: dict[str, Any]) -> Section:
    data = "" if result["data"] == "digits" else " --data-dir DIR"
    options = f"{data} --seeds {result['seeds']} --epochs {result['epochs']}"
    return Section(
        f"Batch statistics at both iterates: {result['data']}",
        [f"python -m benchmarks.batch_statistics{options} --json FILE"],
        [report.markdown_table(batch_statistics.COLUMNS, [batch_statistics.rows(result)], text=(0, 3))],
        batch_statistics.NOTES,
    )


def of_device(result: dict[str, Any]) -> Section:
    packages = f"{', '.join(device.RUNTIME[:-1])} and {device.RUNTIME[-1]}"
    return Section(
        "A device without JAX",
        [f"python -m benchmarks.device{_repeats(result)} --json FILE"],
        [
            report.markdown_table(device.COLUMNS, device.rows(result), text=(0, 1, 2)),
            report.markdown_table(device.INFERENCE, device.inference_rows(result)),
        ],
        [
            *device.LEGEND.splitlines(),
            f"The device needs {packages} beside Python: {result['runtime_megabytes']:.0f} MB of disk.",
        ],
    )


def of_parallel(result: dict[str, Any]) -> Section:
    tables = [
        f"{title}:\n\n{report.markdown_table(columns, [rows], text=(0,))}"
        for title, columns, rows in parallel.tables(result)
    ]
    return Section(
        "A Nesterov server on one machine",
        ["python -m benchmarks.parallel --data-dir DIR --json FILE"],
        [*tables, parallel.recovered(result)],
        parallel.LEGEND,
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], Section]] = {
    "convex": of_convex,
    "large": of_large,
    "comparison": of_comparison,
    "tuning": of_tuning,
    "characters": of_characters,
    "cifar": of_cifar,
    "airbench": of_airbench,
    "nadam": of_nadam,
    "schedules": of_schedules,
    "staleness": of_staleness,
    "batch_statistics": of_batch_statistics,
    "parallel": of_parallel,
    "step": of_step,
    "muon": of_muon,
    "memory": of_memory,
    "training": of_training,
    "streaming": of_streaming,
    "startup": of_startup,
    "first_step": of_first_step,
    "device": of_device,
}
"""By the first word of the file's name, in the order of the page."""


def _repeats(result: dict[str, Any]) -> str:
    return f" --repeats {result['repeats']}" if "repeats" in result else ""
