"""The comparison on pictures: its runs, its file, and the numbers in its tables."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from benchmarks import cifar, pictures, render
from nag_optax import nag
from nag_optax.train.data import load_dataset
from nag_optax.train.loop import Loop
from nag_optax.train.optimizers import core
from nag_optax.train.options import Options
from nag_optax.train.parallel import find_devices
from nag_optax.train.registry import OPTIMIZERS
from nag_optax.train.rows import Split
from nag_optax.train.spec import resolve

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.exhaustive
def test_each_epoch_is_examined_at_both_iterates_and_a_second_call_goes_on(
    tmp_path: Path, monkeypatch, capsys
):
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name in ("a", "b"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 256, (cifar.SIZE, cifar.SIZE, 3), np.uint8)
                Image.fromarray(picture).save(folder / f"{i}.png")
    made = {
        cifar.BASELINE: cifar.Contender(lambda rate: optax.sgd(rate, 0.9, nesterov=True), 0.01),
        "nag": cifar.Contender(lambda rate: nag(rate, 0.9), 0.01),
    }
    monkeypatch.setattr(cifar, "contenders", lambda model: made)
    monkeypatch.setattr(cifar, "BATCH_SIZE", 8)
    monkeypatch.setattr(cifar, "SEEDS", 2)
    path = tmp_path / "cifar-mlp.json"
    sizes = ["--train", "20", "--num-epochs", "2", "--repeats", "1", "--decay", "constant"]
    command = ["--data-dir", str(tmp_path), "--model", "mlp", *sizes, "--json", str(path)]
    cifar.main(command)
    first = json.loads(path.read_text())
    found = first["optimizers"]["constant"]
    assert (first["train"], first["test"]) == (20, 8) and list(first["optimizers"]) == ["constant"]
    assert "--repeats 1 --decay constant --json" in render.section(path).replace(" \\\n   ", "")
    assert np.shape(found["nag"]["x"]["loss"]) == np.shape(found["nag"]["p"]["accuracy"]) == (2, 2)
    sgd = found[cifar.BASELINE]
    assert sgd["x"] == sgd["p"] and found["nag"]["x"] != found["nag"]["p"]
    monkeypatch.setattr(cifar, "measured", None)  # Nothing is left to measure.
    cifar.main(command)
    assert json.loads(path.read_text())["optimizers"] == first["optimizers"]
    assert "| constant | `nag` " in capsys.readouterr().out.replace("  ", " ")


def test_a_run_is_the_trainers():
    spec = resolve(Options(model="mlp", num_epochs=2, learning_rate=0.1, seed=3))
    dataset = load_dataset(spec)
    few = dataset._replace(train=Split(*(part[:256] for part in dataset.train)))
    *_, mine = pictures.Runs(spec, few, partial(core, OPTIMIZERS["nag"])).states(0.1, 3, 2)
    loop = Loop(spec, few, find_devices("cpu", 1))
    theirs = loop.init()
    for _ in range(2):
        theirs = loop.run_chunk(theirs, loop.steps_per_epoch)
    # 16 steps, each of which rounds numbers of about 1 in sums of 64.
    for a, b in zip(jax.tree.leaves(mine.params), jax.tree.leaves(theirs.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=16 * 64 * 2.0**-24)


def test_the_tables_compare_seed_by_seed_and_x_with_p(tmp_path: Path):
    """Two seeds and three epochs; nag reaches optax.sgd's last mean loss, 2, after the second."""

    def entry(loss: list[list[float]], p: list[list[float]] | None = None):
        trial = {"learning_rate": 0.05, "validation_loss": [1.0]}
        x = {"loss": loss, "accuracy": [[0.5] * 3, [0.6] * 3]}
        return {"trials": [trial], "best": 0, "x": x, "p": x if p is None else {**x, "loss": p}}

    found = {
        cifar.BASELINE: entry([[5, 4, 1], [5, 4, 3]]),
        "nag": entry([[5, 1, 1], [5, 3, 2]], [[6, 2, 1], [6, 5, 2]]),
    }
    result = json.loads((render.RESULTS / "nadam.json").read_text())
    result |= {"model": "cnn", "epochs": 3, "repeats": 1, "train": 2000, "available": 3000, "test": 10}
    result |= {"optimizers": {"cosine": found}, "milliseconds": {"nag": 1.25}}
    ((first, second),) = cifar.rows(result)
    nag_row = ("0.05", "1.500 ± 0.707", "0.500 ± 0.707", "55.0 ± 7.1", "2", "1.2")
    assert first == ("cosine", "`nag`", *nag_row)
    assert second[3:] == ("2.000 ± 1.414", "", "55.0 ± 7.1", "3", "")
    assert cifar.iterate_rows(result) == [("cosine", "`nag`", "+1.000", "+1.500", "+0.000")]
    path = tmp_path / "cifar-cnn.json"
    path.write_text(json.dumps(result))
    section = render.section(path)
    assert "--num-epochs 3" in section and "2,000 of the folder's 3,000 training pictures" in section
