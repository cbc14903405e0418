"""The options: defaults by dataset or problem, and one line for each mistake."""

import dataclasses
from pathlib import Path

import pytest

from nag_optax.compare.spec import CompareOptions, DataSpec, ProblemSpec, load_spec, resolve
from nag_optax.train.errors import InputError
from nag_optax.train.options import Options
from nag_optax.train.spec import resolve as resolve_run


def test_the_defaults_of_data_and_of_a_problem():
    spec = resolve(CompareOptions())
    assert isinstance(spec, DataSpec)
    assert (spec.dataset, spec.model, spec.num_epochs, spec.batch_size) == ("digits", "mlp", 60, 32)
    assert (spec.schedule, spec.seeds, spec.target) == ("cosine", 3, 0.97)
    default = ("sgd", "momentum", "nag", "nag-restart", "adam", "nadamw", "adan", "muon")
    assert spec.optimizers == default
    assert spec.run_dir == Path("runs/compare-digits-mlp") and spec.to_dict()["num_steps"] is None
    problem = resolve(CompareOptions(problem="quadratic"))
    assert isinstance(problem, ProblemSpec) and problem.num_steps == 1000
    assert (problem.to_dict()["dataset"], problem.to_dict()["seeds"]) == (None, None)
    assert problem.schedule == "constant" and "muon" not in problem.optimizers
    assert problem.run_dir == Path("runs/compare-quadratic")


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"optimizers": ("lion",)}, "--optimizers lion: must be names of nag, sgd, momentum"),
        ({"learning_rates": (0.1, 0.0)}, "--learning-rates 0.1 0.0: must be auto, or finite"),
        ({"learning_rates": (1e-60,)}, "--learning-rates 1e-60: must be auto, or finite float32"),
        ({"seeds": 0}, "--seeds 0: must be a whole number from 1 to 100"),
        ({"seed": 2**32}, "--seed 4294967296: must be a whole number from 0"),
        ({"target": 97.0}, "--target 97.0: must be a test accuracy in (0, 1]"),
        ({"num_epochs": 0}, "--num-epochs 0: must be a whole number of at least 1"),
        ({"num_steps": 10}, "--num-steps 10: is only for --problem"),
        ({"dataset": "mnist"}, "--data-dir: --dataset mnist needs the folder"),
        ({"problem": "cubic"}, "--problem cubic: must be one of quadratic, rosenbrock, logistic"),
        ({"problem": "logistic", "seeds": 2}, "--seeds 2: is for a dataset; --problem logistic has none"),
        ({"problem": "logistic", "num_steps": 0}, "--num-steps 0: must be a whole number from 1"),
        ({"problem": "logistic", "optimizers": ("muon",)}, "--optimizers muon: orthogonalises matrices"),
    ],
)
def test_a_mistake_names_the_option_the_value_and_what_is_allowed(fields, line):
    with pytest.raises(InputError) as error:
        resolve(CompareOptions(**fields))
    assert str(error.value).startswith(line)


def test_the_file_gives_back_the_configuration_and_says_what_differs(tmp_path):
    spec = resolve(CompareOptions(optimizers=("nag", "adam"), learning_rates=(0.1, 0.3), run_dir=tmp_path))
    path = tmp_path / "config.json"
    path.write_text(spec.to_json())
    assert load_spec(path) == spec
    other = dataclasses.replace(spec, learning_rates="auto", device="cpu")
    assert spec.differences(other) == ["--learning-rates auto (it holds 0.1 0.3)"]
    path.write_text("{}")
    with pytest.raises(
        InputError, match="not a readable configuration of a comparison .it has no optimizers"
    ):
        load_spec(path)
    path.write_text(resolve_run(Options()).to_json())
    with pytest.raises(
        InputError, match="not a readable configuration of a comparison .it has no optimizers"
    ):
        load_spec(path)
