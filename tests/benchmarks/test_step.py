"""The benchmark of the update step: it runs, says what it promises, and finds no copy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import report, sections, step
from benchmarks.program import compiled
from benchmarks.trees import TREES, num_parameters

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """stdout and the JSON of one run on the smallest tree."""
    file = tmp_path_factory.mktemp("step") / "step-tiny.json"
    options = ["--trees", "tiny", "--repeats", "2", "--json", str(file)]
    # A process of its own: torch, where there is one, and its threads stay out of the other tests.
    command = [sys.executable, "-m", "benchmarks.step", *options]
    # Nor is there a cache, which would take the place of compiling.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout, json.loads(file.read_text())


def test_no_copy_and_no_more_bytes_than_optax(outputs):
    _, result = outputs
    (tree,) = result["trees"]
    nag, sgd = tree["methods"]["nag"], tree["methods"]["optax.sgd"]
    assert nag["copies"] == sgd["copies"] == 0
    assert nag["temporary_bytes_per_parameter"] == 0
    # The scalar `evaluation` of the state passes through: read and written once a step.
    extra = (nag["bytes_per_parameter"] - sgd["bytes_per_parameter"]) * tree["parameters"]
    assert extra <= 8.5


def test_json_says_where_when_and_what(outputs):
    _, result = outputs
    assert {"date", "machine", "versions", "repeats", "trees"} == set(result)
    assert {"backend", "device", "cores", "system"} == set(result["machine"])
    assert {"python", "jax", "jaxlib", "optax", "nag_optax"} <= set(result["versions"])
    (tree,) = result["trees"]
    assert (tree["tree"], tree["parameters"], tree["leaves"]) == ("tiny", 9600, 3)
    assert tree["gigabytes_per_second"] > 0
    assert {"nag", "optax.sgd", "memory bound"} <= set(tree["methods"])
    for numbers in tree["methods"].values():
        assert 0 < numbers["quartiles"][0] <= numbers["milliseconds"] <= numbers["quartiles"][1]
        ratio = tree["methods"]["nag"]["milliseconds"] / numbers["milliseconds"]
        assert numbers["nag_ratio"] == pytest.approx(ratio)
    for method in ("nag", "optax.sgd"):
        assert tree["methods"][method]["trace_seconds"] > 0
        assert tree["methods"][method]["compile_seconds"] > 0


def test_plain_output_is_the_table_of_the_page(outputs):
    stdout, result = outputs
    table = [line for line in stdout.splitlines() if line.startswith("|")]
    assert "tiny: 9,600 in 3" in table[2]
    section = sections.of_step(result)
    assert "\n".join(table) + "\n" == section.tables[0]
    assert section.commands == ["python -m benchmarks.step --trees tiny --repeats 2 --json FILE"]


@pytest.mark.parametrize(
    ("name", "leaves", "parameters"),
    [
        ("one-leaf", 1, 16_777_216),
        ("resnet50", 161, 25_557_032),
        ("gpt2-small", 148, 124_439_808),
        ("small-leaves", 400, 400_000),
    ],
)
def test_trees_have_their_true_sizes(name, leaves, parameters):
    shapes = TREES[name]()
    assert (len(shapes), num_parameters(shapes)) == (leaves, parameters)


def test_the_time_to_compile_is_not_the_time_to_read_a_cache():
    assert "JAX_COMPILATION_CACHE_DIR" in os.environ
    program = compiled(jax.jit(jnp.square), jnp.ones(2), sizes={2})
    assert program.compile_seconds is None
    numbers = {"trace_seconds": 1.0, "compile_seconds": None}
    assert report.seconds_to_compile(numbers, 1) == ""
    assert report.seconds_to_compile(numbers | {"compile_seconds": 0.5}, 1) == "1.5"


def test_a_copy_is_counted():
    x, y = jnp.zeros((8, 16)), jnp.zeros((8, 16))
    swap = jax.jit(lambda x, y: (y, x), donate_argnums=(0, 1))
    assert compiled(swap, x, y, sizes={128}).copies > 0
    assert compiled(swap, x, y, sizes={127}).copies == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--trees", "vgg"],
        ["--repeats", "0"],
        ["--repeats", "many"],
        ["--json", "no/such/folder/step.json"],
        ["--json", "."],
        ["--unknown"],
    ],
)
def test_a_bad_option_is_one_line_and_exit_code_2(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        step.main(options)
    assert stopped.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1 and options[-1] in stderr
