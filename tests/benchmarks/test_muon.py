"""The benchmark of Muon: it runs, it prints the tables of the page, and its counts are right."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import sections
from benchmarks.muon_contenders import OPTAX, OURS
from benchmarks.program import count_kernels
from benchmarks.trees import MATRICES, num_parameters

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """stdout and the JSON of one run on the smallest set."""
    file = tmp_path_factory.mktemp("muon") / "muon-tiny.json"
    options = ["--matrices", "tiny", "--dtypes", "float32", "--repeats", "2", "--json", str(file)]
    command = [sys.executable, "-m", "benchmarks.muon", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout, json.loads(file.read_text())


@pytest.mark.exhaustive
def test_output_is_the_tables_of_the_page(outputs):
    stdout, result = outputs
    section = sections.of_muon(result)
    tables = [line for line in stdout.splitlines() if line.startswith("|")]
    assert tables == [line for table in section.tables for line in table.splitlines()]
    assert "tiny, float32: 6,144 in 8" in tables[2]
    (command,) = section.commands
    assert command == "python -m benchmarks.muon --matrices tiny --dtypes float32 --repeats 2 --json FILE"


@pytest.mark.exhaustive
def test_devices_share_the_work(outputs):
    """The cost columns: one exchange there and one back for each of the four shapes."""
    _, result = outputs
    (costs,) = result["costs"]
    one, four = costs["methods"][OURS]["1"], costs["methods"][OURS]["4"]
    assert (one["exchanges"], four["exchanges"]) == (0, 2 * 4)
    assert four["exchanges"] < costs["methods"][OPTAX]["4"]["exchanges"]
    assert four["flops"] < one["flops"]


def test_kernels_of_a_loop_are_counted_as_often_as_it_runs():
    def repeated(times: int) -> int:
        loop = jax.jit(lambda x: jax.lax.fori_loop(0, times, lambda _, x: jnp.sin(x @ x), x))
        return count_kernels(loop.lower(jnp.ones((64, 64))).compile().as_text() or "")

    three, seven, eleven = map(repeated, (3, 7, 11))
    assert eleven - seven == seven - three >= 4 * 2


@pytest.mark.parametrize(
    ("name", "leaves", "parameters"), [("gpt2-small", 48, 84_934_656), ("small", 16, 7_077_888)]
)
def test_sets_have_their_true_sizes(name, leaves, parameters):
    """12·width² a block."""
    shapes = MATRICES[name]()
    assert (len(shapes), num_parameters(shapes)) == (leaves, parameters)
