"""Tables of results that are written by hand."""

import json

from benchmarks import pays, render, training
from nag_optax.compare.spec import CompareOptions, resolve
from tests.compare import test_table

FACTS = {
    "date": "2026-01-02T03:04:05+00:00",
    "machine": {"backend": "cpu", "device": "a processor", "cores": 2},
    "versions": {"jax": "1.2.3"},
}


def written(folder, name: str, result: dict) -> str:
    path = folder / name
    path.write_text(json.dumps(FACTS | result))
    return render.section(path)


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def commands(text: str) -> list[str]:
    """Each in one line; no line of the page is longer than what the site shows."""
    code = text.partition("```bash\n")[2].partition("\n```")[0]
    assert max(map(len, code.splitlines())) <= render.WIDTH + 6
    return [" ".join(line.split()) for line in code.replace("\\\n", "").splitlines()]


def test_convex(tmp_path):
    reached = {"iterations": 12, "gradients": 13, "values": 14, "milliseconds": 1.234}
    missed = {"iterations": None, "gradients": None, "values": None, "milliseconds": None}
    scaling = [
        {"precision": "float32", "smoothness": s, "solver": name, "outcome": outcome, "iterations": n}
        for s, name, outcome, n in (
            (0.1, "ours", "converged", 20),
            (10.0, "ours", "converged", 21),
            (0.1, "theirs", "NaN", 3),
            (10.0, "theirs", "stalled", 10_000),
        )
    ]
    problem = {"name": "lasso", "gaps": [1e-6, 1e-9], "solvers": {"ours": [reached, missed]}}
    text = written(tmp_path, "convex.json", {"problems": [problem], "scaling": scaling, "repeats": 7})
    assert commands(text) == ["python -m benchmarks.convex --repeats 7 --json benchmarks/results/convex.json"]
    assert "a processor, 2 cores, jax 1.2.3, 2026-01-02." in text
    table = cells(text)
    assert table[2] == ["lasso", "ours", "12", "13", "14", "1.23", "> 20000", "", "", ""]
    assert table[-2:] == [
        ["float32", "ours", "2", "0", "0", "0", "21"],
        ["", "theirs", "0", "0", "1", "1", "10000"],
    ]
    assert "L from 0.1 to 10: outcomes at 2 scales" in text


CONFIG = resolve(CompareOptions(seeds=3)).to_dict()


def test_comparison(tmp_path):
    result = {"config": CONFIG, "optimizers": [test_table.RESULT]}
    text = written(tmp_path, "comparison-digits.json", result)
    first, second = commands(text)
    assert first == "nag-optax compare --run-dir runs/compare-digits-mlp"
    json = "--json benchmarks/results/comparison-digits.json"
    assert second == f"python -m benchmarks.comparison runs/compare-digits-mlp {json}"
    assert cells(text)[2][:5] == ["NAG", "0.1", "2.0e-01 ± 1e-01", "98.00 ± 1.00", "2.0e-03 ± 1e-03"]
    assert "over 3 seeds." in text


def test_comparison_on_files(tmp_path):
    """The place of the data is not kept, and must be given again."""
    config = CONFIG | {"dataset": "mnist", "model": "cnn"}
    result = {"config": config, "optimizers": [test_table.RESULT]}
    text = written(tmp_path, "comparison-mnist-cnn.json", result)
    assert "## Optimizers: mnist, cnn" in text
    assert commands(text)[0].startswith("nag-optax compare --dataset mnist --data-dir DIR --model cnn ")


def test_tuning(tmp_path):
    trials = [
        {"learning_rate": rate, "diverged": False, "validation_loss": [loss]}
        for rate, loss in ((0.1, 0.5), (0.3, 0.25))
    ]
    result = {"dataset": "mnist", "model": "cnn", "num_epochs": 1, "batch_size": 64, "optimizers": {}}
    result |= {"num_images": 12000}
    long = "second" + 20 * " --an-option value"
    for name, command in (("nag", "first"), ("sgd", long), ("adam", "first")):
        found = {"command": command, "best": 1, "trials": trials, "test_accuracy": [0.9, 0.8]}
        result["optimizers"][name] = found
    text = written(tmp_path, "tuning-mnist-cnn.json", result)
    assert "## Learning rates: mnist, cnn\n" in text
    assert "\nThe first 12,000 images, 1 epoch, batches of 64, 1 seed:\n" in text
    assert commands(text) == ["first", long] and "option \\\n" not in text
    assert cells(text)[2] == ["nag", "0.3", "0.25", "85.00 ± 7.07", "0.1: 0.5, 0.3: 0.25"]
    assert [row[0] for row in cells(text)[2:]] == ["nag", "sgd", "adam"]


def test_the_page_says_what_a_call_from_python_costs_on_a_gpu():
    text = render.section(render.RESULTS / "step-h100.json")
    assert "## One update step on a GPU\n" in text and "NVIDIA H100" in text
    said = "costs 1.36 ms for ResNet-50's 161 leaves, 3.7 times torch's 0.37 ms."
    assert said.rstrip(".") in text and "ResNet-50: 0.43, 0.32, 0.20 ms." in text
    assert "called from Python" not in render.section(render.RESULTS / "step-cpu.json")


def test_no_note_and_no_row_is_on_the_pages_twice():
    page = render.page()
    assert page.count("- best: the rate with the lowest mean loss") == page.count("- compile s: ") == 1
    assert page.count("## Learning rates: ") == 3 and page.count("## One update step on a ") == 2

    def rows(text: str) -> set[str]:
        return {line for line in text.splitlines() if line.startswith("|") and "---" not in line}

    shown = pays.page(render.RESULTS)
    assert rows(shown) and not rows(shown) & rows(page)


def test_training(tmp_path):
    loops = {
        "nag-optax train": {"seconds_per_epoch": 1.0, "quartiles": [0.9, 1.1], "nag_optax_ratio": 1.0},
        training.TORCH: {"seconds_per_epoch": 2.0, "quartiles": [1.9, 2.1], "nag_optax_ratio": 0.5},
    }
    text = written(
        tmp_path,
        "training-digits-mlp.json",
        {
            "dataset": "digits",
            "model": "mlp",
            "steps": 45,
            "repeats": 7,
            "processor_time": True,
            "loops": loops,
        },
    )
    assert "Time of the processor, on one core." in text
    (command,) = commands(text)
    assert command.startswith(
        "taskset -c 0 python -m benchmarks.training --model mlp --steps 45 --repeats 7 --json "
    )
    assert cells(text)[2:] == [
        ["digits mlp", "nag-optax train", "1.000", "0.900 to 1.100", ""],
        ["", training.TORCH, "2.000", "1.900 to 2.100", "0.50"],
    ]
