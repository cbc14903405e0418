"""A run: defaults from the table, checks, and its way to config.json and back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from nag_optax.compare.spec import CompareOptions
from nag_optax.compare.spec import resolve as resolve_comparison
from nag_optax.train.errors import InputError
from nag_optax.train.options import Options
from nag_optax.train.registry import OPTIMIZERS, RECIPES
from nag_optax.train.spec import Spec, fit_batch, load_spec, resolve


@pytest.mark.parametrize(("dataset", "model"), RECIPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_defaults_come_from_the_table(dataset, model, optimizer, tmp_path):
    data_dir = tmp_path if dataset == "mnist" else None
    spec = resolve(Options(dataset=dataset, model=model, optimizer=optimizer, data_dir=data_dir))
    table = RECIPES[dataset, model]
    row = OPTIMIZERS[optimizer]
    assert spec.learning_rate == row.searched.get((dataset, model), row.learning_rate)
    assert (spec.num_epochs, spec.batch_size) == (table.num_epochs, table.batch_size)
    assert spec.warmup_epochs == table.warmup_epochs  # as --help says
    assert spec.momentum == {"nag": 0.9, "momentum": 0.9, "laprop": 0.9, "muon": 0.95}.get(optimizer)
    around = optimizer in ("snoo", "ema_nesterov", "gpa")
    assert spec.inner == ("adamw" if around else None)
    assert spec.weight_decay == (1e-4 if around or optimizer in ("adamw", "nadamw") else 0.0)
    assert spec.run_dir == Path(f"runs/{dataset}-{model}-{optimizer}-0")


def test_a_run_of_ones_own_has_a_folder_that_every_system_and_scp_take():
    spec = resolve(Options(model="mine:Net", optimizer="optax:lion"))
    assert spec.run_dir == Path("runs/digits-mine.Net-optax.lion-0")


def reloaded(spec: Spec) -> Spec:
    (spec.run_dir / "config.json").write_text(spec.to_json())
    return load_spec(spec.run_dir / "config.json")


def test_what_goes_around_another_optimizer_takes_its_options_and_defaults(tmp_path):
    spec = resolve(Options(optimizer="gpa", inner="muon", model="mlp", weight_decay=0.1, run_dir=tmp_path))
    muon, gpa = (OPTIMIZERS[name].searched["digits", "mlp"] for name in ("muon", "gpa"))
    assert (spec.momentum, spec.weight_decay, spec.learning_rate) == (0.95, 0.1, muon)
    assert reloaded(spec) == spec
    usual = resolve(Options(optimizer="gpa", inner="adamw", model="mlp"))
    assert usual == resolve(Options(optimizer="gpa", model="mlp"))
    assert usual.learning_rate == gpa


@pytest.mark.parametrize(("num_epochs", "warmup"), [(3, 0.3), (7, 0.7), (100, 1.0)])
def test_the_warm_up_is_at_most_a_tenth_of_the_epochs(num_epochs, warmup):
    assert resolve(Options(model="mlp", num_epochs=num_epochs)).warmup_epochs == warmup


def test_given_values_stay():
    spec = resolve(Options(model="mlp", learning_rate=0.5, momentum=0.0, num_epochs=1, batch_size=7))
    assert (spec.learning_rate, spec.momentum, spec.num_epochs, spec.batch_size) == (0.5, 0.0, 1, 7)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"dataset": "imagenet"}, "--dataset imagenet: must be one of digits, mnist"),
    ({"model": "vgg"}, "--model vgg: must be one of mlp, cnn"),
    ({"optimizer": "lion"}, "--optimizer lion: must be one of"),
    ({"schedule": "step"}, "--schedule step: must be one of constant, cosine, linear"),
    ({"restart": "never"}, "--restart never: must be one of gradient, speed, value"),
    ({"batch_size": 0}, "--batch-size 0: must be a whole number of at least 1"),
    ({"batch_size": -3}, "--batch-size -3: must be"),
    ({"batch_size": 2.5}, "--batch-size 2.5: must be"),
    ({"num_epochs": 0}, "--num-epochs 0: must be a whole number of at least 1"),
    ({"num_epochs": -1}, "--num-epochs -1: must be"),
    ({"momentum": 1.0}, r"--momentum 1.0: must be a float32 in \[0, 1\)"),
    ({"momentum": -0.1}, "--momentum -0.1: must be"),
    ({"momentum": float("nan")}, "--momentum nan: must be"),
    ({"learning_rate": float("inf")}, "--learning-rate inf: must be a finite float32 above 0"),
    ({"learning_rate": float("nan")}, "--learning-rate nan: must be"),
    ({"learning_rate": 0.0}, "--learning-rate 0.0: must be"),
    ({"weight_decay": -1.0}, "--weight-decay -1.0: must be"),
    ({"smoothing": 1.0}, "--smoothing 1.0: must be"),
    ({"augment": "flip"}, "--augment flip: must be one of none, crop-flip, alternating-flip, resized-crop"),
    ({"precision": "float16"}, "--precision float16: must be one of float32, bfloat16, bfloat16-parameters"),
    ({"mixup": -0.1}, "--mixup -0.1: must be a finite float32 of at least 0"),
    ({"mixup": float("inf")}, "--mixup inf: must be"),
    ({"label_smoothing": 1.0}, r"--label-smoothing 1.0: must be a float32 in \[0, 1\)"),
    ({"ema": 1.0}, r"--ema 1.0: must be a float32 in \[0, 1\)"),
    ({"accumulate": 0}, "--accumulate 0: must be a whole number of at least 1"),
    (
        {"accumulate": 3, "batch_size": 64},
        "--batch-size 64: must be a multiple of --accumulate 3",
    ),
    ({"validation": 1.0}, r"--validation 1.0: must be a number in \[0, 1\)"),
    ({"validation": 0.1, "target_accuracy": 0.0}, r"--target-accuracy 0.0: must be a number in \(0, 1\]"),
    ({"target_accuracy": 0.9}, "--target-accuracy 0.9: needs --validation"),
    ({"validation": 0.1, "patience": 0}, "--patience 0: must be a whole number of at least 1"),
    ({"patience": 3}, "--patience 3: needs --validation"),
    ({"clip_norm": 0.0}, "--clip-norm 0.0: must be"),
    ({"learning_rate": 1e39}, "must be a finite float32"),
    ({"momentum": 0.9999999999}, "must be a float32 in"),
    ({"smoothing": 0.9999999999}, "must be a float32 in"),
    ({"image_size": 0}, "--image-size 0: must be"),
    ({"image_size": 100_000}, "--image-size 100000: must be a whole number from 1 to 1024"),
    ({"warmup_epochs": 5.0, "num_epochs": 5}, "--warmup-epochs 5.0: must be"),
    ({"seed": -1}, "--seed -1: must be"),
    ({"num_devices": 0}, "--num-devices 0: must be"),
    ({"num_devices": 3, "batch_size": 64}, "--batch-size 64: must be a multiple of --num-devices 3"),
    (
        {"coordinator": "x:1", "num_processes": 3, "process_id": 0, "num_devices": 2, "batch_size": 64},
        "--batch-size 64: must be a multiple of --num-devices 2 times --num-processes 3",
    ),
    ({"coordinator": "x"}, "--coordinator x: must be HOST:PORT, with a port from 1 to 65535, or auto"),
    ({"coordinator": "x:0"}, "--coordinator x:0: must be HOST:PORT"),
    ({"num_processes": 2, "process_id": 0}, "--num-processes and --process-id: need --coordinator HOST:PORT"),
    ({"optimizer": "adam", "momentum": 0.5}, "--momentum 0.5: --optimizer adam has none"),
    ({"optimizer": "sgd", "restart": "speed"}, "--restart speed: --optimizer sgd has none"),
    ({"optimizer": "momentum", "momentum_schedule": "sutskever"}, "--momentum-schedule sutskever: --opt"),
    ({"optimizer": "adam", "weight_decay": 0.1}, "--weight-decay 0.1: --optimizer adam has none"),
    ({"inner": "adam"}, "--inner adam: --optimizer nag has none; .* snoo or ema_nesterov or gpa"),
    ({"optimizer": "snoo", "inner": "gpa"}, "--inner gpa: must be one of nag, sgd, momentum, adam, adamw"),
    (
        {"optimizer": "snoo", "momentum": 0.5},
        "--momentum 0.5: --inner adamw has none; it is for --inner nag or momentum or laprop or muon",
    ),
    ({"optimizer": "snoo", "prune": "group_l2=1"}, "--optimizer snoo has none; .* --optimizer nag or sgd"),
    (
        {"prune": "group_l2"},
        "--prune group_l2: must be group_l2=STRENGTH, with",
    ),
    (
        {"prune": "l1=0.1"},
        "--prune l1=0.1: must be group_l2=STRENGTH, with",
    ),
    (
        {"prune": "group_l2=0"},
        "--prune group_l2=0: must be group_l2=STRENGTH, with",
    ),
    (
        {"prune": "group_l2=-1"},
        "--prune group_l2=-1: must be group_l2=STRENGTH, with",
    ),
    (
        {"prune": "group_l2=nan"},
        "--prune group_l2=nan: must be group_l2=STRENGTH, with STRENGTH a finite float32",
    ),
    (
        {"prune": "group_l2=1e39"},
        "--prune group_l2=1e39: must be group_l2=STRENGTH, with",
    ),
    (
        {"prune": "group_l2=much"},
        "--prune group_l2=much: must be group_l2=STRENGTH, with",
    ),
    ({"prune": ""}, "--prune : must be group_l2=STRENGTH, with"),
    ({"prune": "group_l2=0.1", "optimizer": "adam"}, "--optimizer adam has none; .* --optimizer nag or sgd"),
    ({"prune": "group_l2=0.1", "weight_decay": 0.1}, "--weight-decay 0.1: cannot be combined with --prune"),
    ({"dataset": "mnist"}, "--data-dir: --dataset mnist needs the folder"),
    ({"data_dir": Path("x")}, "--data-dir x: --dataset digits is built in"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_a_bad_value_is_named_with_what_is_allowed(fields, message):
    with pytest.raises(InputError, match=message):
        resolve(Options(**fields))


def test_the_default_batch_gives_way_to_few_images_and_a_batch_of_the_users_own_is_refused():
    spec, said = resolve(Options(dataset="folder", data_dir=Path("x"), accumulate=2, num_devices=2)), []
    assert fit_batch(spec, 128, said.append) == spec and not said
    assert fit_batch(spec, 127, said.append).batch_size == 124
    assert fit_batch(spec, 127, said.append, num_processes=16).batch_size == 64
    assert said[0] == "batches of 124 images instead of 128: there are only 127 to train on"
    for refused, count in ((spec, 3), (dataclasses.replace(spec, default_batch=False), 127)):
        with pytest.raises(InputError, match=f"--batch-size 128: must be at most {count}, the number of im"):
            fit_batch(refused, count, said.append)


def test_config_json_gives_the_configuration_back(tmp_path):
    spec = resolve(
        Options(
            optimizer="sgd",
            clip_norm=1.0,
            seed=3,
            prune="group_l2=0.1",
            classes="0-3,5",
            init_from=tmp_path / "source",
            freeze=("conv*, norm1", "norm2"),
            run_dir=tmp_path,
        )
    )
    assert spec.freeze == ("conv*", "norm1", "norm2")
    assert reloaded(spec) == spec


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"data_dir": null, "model": "vit"}', '{"data_dir": 3}'])
def test_a_damaged_config_json_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json: not a readable configuration"):
        load_spec(tmp_path / "config.json")


def test_a_config_json_that_is_none_of_a_run_is_told_for_what_it_is(tmp_path):
    (tmp_path / "config.json").write_text('{"data_dir": null}')
    with pytest.raises(InputError, match="not a readable configuration of a run .it has no optimizer"):
        load_spec(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"configuration of a run \(.*Not a directory"):
        load_spec(tmp_path / "config.json" / "config.json")
    (tmp_path / "config.json").write_text(resolve_comparison(CompareOptions()).to_json())
    with pytest.raises(InputError, match="not a readable configuration of a run .it has no optimizer"):
        load_spec(tmp_path / "config.json")


def test_how_a_run_is_carried_out_makes_no_other_run():
    spec = resolve(Options())
    same = dataclasses.replace(spec, device="cpu", num_devices=2, num_epochs=99, run_dir=Path("x"))
    assert spec.differences(same) == []
    assert spec.differences(dataclasses.replace(spec, seed=7)) == ["--seed 7 (it holds 0)"]
    assert "seed" in json.loads(spec.to_json())
