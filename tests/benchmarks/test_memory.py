"""The benchmark of the low-memory state: it runs in parts, and its page says what it found."""

import json
from pathlib import Path

import pytest

from benchmarks import memory, render

SHORT = ["--optimizers", "nag", "--repeats", "1"]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Of both parts, measured one after the other."""
    file = tmp_path_factory.mktemp("memory") / "memory-cpu.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "TASKS", (("digits", "mlp"),))
        memory.main([*SHORT, "--only", "steps", "--trees", "tiny", "--json", str(file)])
        memory.main([*SHORT, "--only", "losses", "--seeds", "2", "--num-epochs", "1", "--json", str(file)])
    return file


@pytest.mark.exhaustive
def test_bytes_and_times(file):
    (tree,) = json.loads(file.read_text())["trees"]
    wide, narrow = (tree["optimizers"]["nag"][state] for state in memory.STATES)
    # Counters and scalars are a few bytes. Of three leaves, one is large enough to be packed.
    small, large = 128 + 1280, 64 * 128
    assert 0 <= 9600 * (wide["state_bytes_per_parameter"] - 4) < 64
    assert 0 <= 9600 * narrow["state_bytes_per_parameter"] - 4 * small - 1.03125 * large < 64
    for numbers in (wide, narrow):
        assert 0 < numbers["quartiles"][0] <= numbers["milliseconds"] <= numbers["quartiles"][1]
        assert numbers["bytes_per_parameter"] > 0


@pytest.mark.exhaustive
def test_losses_are_those_of_the_comparison_s_seeds(file):
    (task,) = json.loads(file.read_text())["losses"]
    assert (task["dataset"], task["model"], task["num_epochs"]) == ("digits", "mlp", 1)
    found = task["optimizers"]["nag"]
    assert found["learning_rate"] == 0.1
    wide, narrow = (found[state] for state in memory.STATES)
    assert len(wide) == len(narrow) == 2 and wide[0] != wide[1]
    assert narrow == pytest.approx(wide, rel=0.1) and narrow != wide


@pytest.mark.exhaustive
def test_the_page(file):
    text = render.section(file)
    assert "## Low-memory state on a CPU" in text and "Final loss, 2 seeds:" in text
    (command,) = [line for line in text.replace("\\\n", "").splitlines() if line.startswith("python")]
    options = "--trees tiny --repeats 1 --data-dir DIR --json benchmarks/results/memory-cpu.json"
    assert " ".join(command.split()) == f"python -m benchmarks.memory {options}"


def test_a_difference_is_in_standard_deviations_of_float32():
    found = {"learning_rate": 0.1, "float32": [1.0, 2.0, 3.0], "one byte": [2.0, 3.0, 2.5]}
    entry = {"dataset": "mnist", "model": "mlp", "num_epochs": 5, "optimizers": {"nag": found}}
    (row,) = memory.loss_rows(entry)
    assert row == ("mnist mlp, 5 epochs", "nag", "0.1", "2.00e+00 ± 1e+00", "2.50e+00 ± 5e-01", "+0.5")


@pytest.mark.parametrize("options", [["--only", "bytes"], ["--trees", "vgg"], ["--seeds", "0"]])
def test_a_bad_option_is_one_line_and_exit_code_2(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        memory.main(options)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
