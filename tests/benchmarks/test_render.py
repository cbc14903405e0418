"""Tables of results that are written by hand."""

import json

from benchmarks import render
from tests.compare import test_table

FACTS = {
    "date": "2026-01-02T03:04:05+00:00",
    "machine": {"device": "a processor", "cores": 2},
    "versions": {"jax": "1.2.3"},
}


def written(folder, name: str, result: dict) -> str:
    path = folder / name
    path.write_text(json.dumps(FACTS | result))
    return render.section(path)


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


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
    text = written(tmp_path, "convex.json", {"problems": [problem], "scaling": scaling})
    assert "--json benchmarks/results/convex.json" in text
    assert "a processor, 2 cores, jax 1.2.3, 2026-01-02." in text
    table = cells(text)
    assert table[2] == ["lasso", "ours", "12", "13", "14", "1.23", "> 20000", "", "", ""]
    assert table[-2:] == [
        ["float32", "ours", "2", "0", "0", "0", "21"],
        ["", "theirs", "0", "0", "1", "1", "10000"],
    ]
    assert "L from 0.1 to 10: in how many of 2 scales" in text


def test_comparison(tmp_path):
    result = {"config": test_table.CONFIG.to_dict(), "optimizers": [test_table.RESULT]}
    text = written(tmp_path, "comparison-digits.json", result)
    assert "```bash\nnag-optax compare\n```" in text
    assert cells(text)[2][:4] == ["NAG", "0.1", "98.00 ± 1.00", "2.0e-03 ± 1e-03"]


def test_training(tmp_path):
    loops = {
        "nag-optax train": {"seconds_per_epoch": 1.0, "quartiles": [0.9, 1.1], "nag_optax_ratio": 1.0},
        "torch": {"seconds_per_epoch": 2.0, "quartiles": [1.9, 2.1], "nag_optax_ratio": 0.5},
    }
    text = written(
        tmp_path,
        "training-digits-mlp.json",
        {"dataset": "digits", "model": "mlp", "steps": 45, "repeats": 7, "loops": loops},
    )
    assert "benchmarks.training --model mlp --steps 45 --repeats 7 --json" in text
    assert cells(text)[2:] == [
        ["digits mlp", "nag-optax train", "1.000", "0.900 to 1.100", ""],
        ["", "torch", "2.000", "1.900 to 2.100", "0.50"],
    ]
