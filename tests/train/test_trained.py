"""The API: a trained model, from a run or from its folder alone, and `nag-optax predict`, which prints it."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import nag_optax.train
from nag_optax.train.data.idx import read_idx_pair
from nag_optax.train.errors import InputError
from nag_optax.train.options import PredictOptions
from nag_optax.train.predict import predict
from tests.train.conftest import SMALL


def test_the_names_of_the_api_are_imported_when_used():
    code = (
        "import sys, nag_optax.train as t\n"
        "assert not {'jax', 'flax', 'tyro', 'rich', 'numpy'} & set(sys.modules), 'heavy import'\n"
        "assert all(callable(getattr(t, name)) for name in t.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = nag_optax.train.trian


def test_a_run_and_its_folder_give_the_same_model(finished_run, tmp_path, console):
    options = dataclasses.replace(SMALL, run_dir=tmp_path / "run")
    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 8, 8)
    here, there = nag_optax.train.run(options, console), nag_optax.train.load(finished_run)
    probabilities = here.predict(images)
    np.testing.assert_array_equal(there.predict(images), probabilities)
    assert probabilities.dtype == np.float32 and probabilities.shape == (1797, 10)
    assert here.class_names == tuple("0123456789")
    summary = json.loads((finished_run / "summary.json").read_text())
    assert there.metrics == summary
    correct = 1437 * summary["train_accuracy"] + 360 * summary["test_accuracy"]
    assert (probabilities.argmax(1) == labels).sum() == round(correct)


def test_the_model_takes_standardised_images(finished_run):
    trained = nag_optax.train.load(str(finished_run))
    images = load_digits(return_X_y=True)[0][:3].reshape(-1, 8, 8, 1).astype(np.float32)
    logits = trained.model((images - trained.mean) / trained.std, train=False)
    # Both in float32, of one image and of a batch: roundings alone differ.
    np.testing.assert_allclose(jax.nn.softmax(logits), trained.predict(images), atol=1e-6)
    with pytest.raises(
        InputError,
        match=r"images: has shape \(1, 9, 9\) of float64; must be .* \(N, 8, 8, 1\) or \(N, 8, 8\)",
    ):
        trained.predict(np.zeros((1, 9, 9)))


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_predict_needs_the_folder_of_the_run_alone(idx_folder, tmp_path, console):
    run_dir, moved = tmp_path / "run", tmp_path / "elsewhere"
    options = dataclasses.replace(SMALL, dataset="mnist", data_dir=idx_folder, run_dir=run_dir, batch_size=16)
    trained = nag_optax.train.run(options, console)
    images, _ = read_idx_pair(idx_folder, "train")
    shutil.rmtree(idx_folder)
    shutil.move(run_dir, moved)
    pictures = tmp_path / "pictures" / "deep"
    pictures.mkdir(parents=True)
    for i in (1, 0):
        Image.fromarray(images[i]).save(pictures / f"{i}.PNG")
    Image.fromarray(images[2]).convert("RGB").save(tmp_path / "colour.bmp")
    np.save(tmp_path / "more.npy", images[3:5])
    paths = (tmp_path / "pictures", tmp_path / "more.npy", tmp_path / "colour.bmp")
    predict(PredictOptions(moved, paths, tmp_path / "out.csv"))
    rows = table(tmp_path / "out.csv")
    more = tmp_path / "more.npy"
    names = [pictures / "0.PNG", pictures / "1.PNG", f"{more}[0]", f"{more}[1]", tmp_path / "colour.bmp"]
    assert [row.pop("name") for row in rows] == list(map(str, names))
    expected = trained.predict(images[[0, 1, 3, 4, 2]])
    assert [row.pop("class") for row in rows] == [trained.class_names[i] for i in expected.argmax(1)]
    assert tuple(rows[0]) == trained.class_names
    # Six digits are printed.
    found = np.array([[float(p) for p in row.values()] for row in rows])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_picture_of_another_size_is_resized_and_the_csv_is_printed(finished_run, tmp_path, capsys):
    Image.fromarray(np.full((30, 20, 3), 9, np.uint8)).save(tmp_path / "grey.png")
    predict(PredictOptions(finished_run, (tmp_path / "grey.png",)))
    header, row = capsys.readouterr().out.splitlines()
    assert header == "name,class,0,1,2,3,4,5,6,7,8,9"
    expected = nag_optax.train.load(finished_run).predict(np.full((1, 8, 8), 9 * 16 / 255))[0]
    np.testing.assert_allclose([float(p) for p in row.split(",")[2:]], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("black", "white"),
    [((0, 0, 0), (16, 16, 16)), ((0, 0, 0), (1, 1, 1)), ((-2.1, -2, -1.8), (2.2, 2.4, 2.6)), (0, 255)],
)
def test_a_picture_is_brought_to_the_scale_of_the_training_images(black, white, tmp_path, console, capsys):
    """The scales are those of digits, of numbers from 0 to 1, of standardised ones and of dark pictures."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    noise[0, 0, 0], noise[0, 0, 1] = 0, 255
    images = np.asarray(black) + np.subtract(white, black) * (noise / 255)
    if np.ndim(black) == 0:
        images = np.minimum(noise, 60)
    np.savez(tmp_path / "x.npz", x_train=images, y_train=np.arange(12) % 2, x_test=images, y_test=[0] * 12)
    options = dataclasses.replace(SMALL, dataset="arrays", data_dir=tmp_path / "x.npz", batch_size=4)
    trained = nag_optax.train.run(dataclasses.replace(options, run_dir=tmp_path / "run"), console)
    Image.fromarray(noise[1] if np.ndim(black) else images[1]).save(tmp_path / "1.png")
    predict(PredictOptions(tmp_path / "run", (tmp_path / "1.png",)))
    found = [float(p) for p in capsys.readouterr().out.splitlines()[-1].split(",")[2:]]
    np.testing.assert_allclose(found, trained.predict(images[1:2])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.npy",
            np.zeros((3, 9, 9)),
            r"has shape \(3, 9, 9\) of float64; must be numbers of shape \(N, 8, 8, 1\)",
        ),
        ("x.npy", np.zeros((3, 8, 8, 3)), r"must be numbers of shape \(N, 8, 8, 1\)"),
        ("x.npy", np.zeros((0, 8, 8)), r"has shape \(0, 8, 8\)"),
        ("x.npy", np.full((3, 8, 8), np.nan), "no finite float32"),
        ("x.npy", np.array([["a"]]), r"has shape \(1, 1\) of <U1; must be numbers"),
        ("x.npy", np.array([None, 1]), "is no file of numbers that numpy.save or numpy.savez wrote"),
        ("x.npy", b"\x89PNG\r\n\x1a\n", "is no file of numbers"),
        ("x.npy", None, r"x.npy: cannot be read \(No such file or directory\)$"),
        ("x.png", b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
        ("x.png", None, r"cannot be decoded \(No such file or directory\)$"),
        ("x.txt", b"words", "x.txt: cannot be decoded"),
    ],
)
def test_what_cannot_be_predicted_is_refused(finished_run, tmp_path, name, content, message):
    path, output = tmp_path / name, tmp_path / "out.csv"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    output.write_text("of before")
    with pytest.raises(InputError, match=message) as raised:
        predict(PredictOptions(finished_run, (path,), output))
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert "pickle" not in str(raised.value)
    assert output.read_text() == "of before" and not list(tmp_path.glob(".*"))


def test_files_of_a_folder_that_are_no_pictures_are_counted(finished_run, tmp_path, capsys):
    new, link = tmp_path / "new", tmp_path / "new" / "link"
    for name in (
        "new/a.png",
        "new/b.heic",
        "new/deep/c.gif",
        "new/deep/._d.png",
        "new/.cache/e.png",
        "f.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name, format="PNG")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "f.png").rename(tmp_path / "elsewhere" / "f.png")
    link.symlink_to(tmp_path / "elsewhere")
    predict(PredictOptions(finished_run, (new,)))
    out, said = capsys.readouterr()
    names = [line.partition(",")[0] for line in out.splitlines()]
    assert names == ["name", f"{new}/a.png", f"{link}/f.png"]
    assert said.startswith(f"2 files are left out, {tmp_path}/new/b.heic first; pictures end in .jpg, .jpeg,")


def test_pictures_that_cannot_be_decoded_are_left_out_if_asked_for(finished_run, tmp_path, capsys):
    for name in ("a", "c"):
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").touch()
    predict(PredictOptions(finished_run, (tmp_path,), skip_unreadable=True))
    out, said = capsys.readouterr()
    assert [line.partition(",")[0] for line in out.splitlines()[1:]] == [f"{tmp_path}/{x}.png" for x in "ac"]
    assert said == f"1 of 3 pictures cannot be decoded and are left out, {tmp_path}/b.png first\n"


def test_a_name_that_is_no_text_is_written_as_it_is(finished_run, tmp_path):
    Image.new("L", (8, 8)).save(path := tmp_path / os.fsdecode(b"caf\xe9.png"))
    predict(PredictOptions(finished_run, (path,), tmp_path / "out.csv"))
    assert os.fsencode(path) in (tmp_path / "out.csv").read_bytes()


def test_nothing_is_printed_before_the_first_result(finished_run, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"words")
    with pytest.raises(InputError, match="bad.png"):
        predict(PredictOptions(finished_run, (tmp_path / "bad.png",)))
    assert capsys.readouterr().out == ""


def test_an_empty_folder_and_a_csv_that_cannot_be_written_are_refused(finished_run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no pictures; they end in .jpg"):
        predict(PredictOptions(finished_run, (tmp_path / "empty",)))
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8)))
    message = r"--output .*out.csv: cannot be written \(No such file or directory\)$"
    with pytest.raises(InputError, match=message):
        predict(PredictOptions(finished_run, (tmp_path / "x.npy",), tmp_path / "nowhere" / "out.csv"))


def test_a_dry_run_has_no_model_to_return(tmp_path):
    with pytest.raises(InputError, match="--dry-run: is only for nag-optax train"):
        nag_optax.train.run(dataclasses.replace(SMALL, dry_run=True, run_dir=tmp_path / "run"))
