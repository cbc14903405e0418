"""Datasets: their arrays, their statistics, and the messages on damaged files."""

import dataclasses
import gzip
import struct

import numpy as np
import pytest

from nag_optax.train import registry
from nag_optax.train.data import load_dataset, resize
from nag_optax.train.data.idx import read_idx
from nag_optax.train.errors import InputError
from nag_optax.train.options import Options
from nag_optax.train.rows import Source
from nag_optax.train.spec import Spec, resolve
from tests.train.conftest import write_idx


def idx_spec(folder) -> Spec:
    return resolve(Options(dataset="mnist", model="mlp", data_dir=folder, batch_size=8))


def test_digits_are_split_by_class_and_disjoint():
    dataset = load_dataset(resolve(Options()))
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (1437, 360)
    assert dataset.image_shape == (8, 8, 1) and dataset.num_classes == 10
    assert np.bincount(dataset.test.labels).min() >= 34  # a fifth of each class of about 180
    everything = np.concatenate([dataset.train.images, dataset.test.images]).reshape(1797, -1)
    from sklearn.datasets import load_digits

    pixels, _ = load_digits(return_X_y=True)
    assert sorted(map(bytes, everything)) == sorted(map(bytes, pixels.astype(np.uint8)))


def test_statistics_are_those_of_the_training_images(idx_folder):
    dataset = load_dataset(idx_spec(idx_folder))
    images = dataset.train.images.astype(np.float64)
    np.testing.assert_allclose(dataset.statistics.mean, [images.mean()], rtol=1e-6)
    np.testing.assert_allclose(dataset.statistics.std, [images.std()], rtol=1e-6)


def test_idx_files_are_read_gzipped_or_not(idx_folder):
    dataset = load_dataset(idx_spec(idx_folder))
    assert dataset.train.images.shape == (64, 6, 5, 1) and dataset.test.images.shape == (20, 6, 5, 1)
    assert dataset.num_classes == 2 and dataset.train.labels.dtype == np.int32
    bright = dataset.test.images.mean((1, 2, 3)) > 110
    assert (bright == dataset.test.labels).all()


def test_colour_images_and_other_prefixes_are_read(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, count in (("my-train", 12), ("my-test", 5)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", rng.integers(0, 255, (count, 4, 4, 3)))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", rng.integers(0, 3, count))
    dataset = load_dataset(idx_spec(tmp_path))
    assert dataset.image_shape == (4, 4, 3) and dataset.statistics.mean.shape == (3,)


def test_resize_is_to_the_size_asked_for(idx_folder):
    spec = dataclasses.replace(idx_spec(idx_folder), image_size=8)
    dataset = load_dataset(spec)
    assert dataset.image_shape == (8, 8, 1)
    constant = resize(np.full((3, 6, 5, 1), 7, np.uint8), 12)
    np.testing.assert_allclose(constant, 7.0, rtol=1e-6)


def test_classes_restrict_both_splits_and_are_numbered_from_zero():
    whole = load_dataset(resolve(Options()))
    part = load_dataset(resolve(Options(classes="7,0-1")))
    assert part.classes == (0, 1, 7) and part.num_classes == 3 and whole.classes == tuple(range(10))
    for split, everything in zip(part[:2], whole[:2], strict=True):
        chosen = np.isin(everything.labels, (0, 1, 7))
        np.testing.assert_array_equal(split.images, everything.images[chosen])
        np.testing.assert_array_equal(np.array(part.classes)[split.labels], everything.labels[chosen])
        assert split.labels.dtype == np.int32
    np.testing.assert_allclose(part.statistics.mean, [part.train.images.mean()], rtol=1e-6)
    message = "--classes 8-11: --dataset digits has no 10, 11; its classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    with pytest.raises(InputError, match=message):
        load_dataset(resolve(Options(classes="8-11")))
    with pytest.raises(InputError, match="has no 10, 11, 12, 13, 14 and 85 more; its classes"):
        load_dataset(resolve(Options(classes="0-99")))
    for text in ("0-", "4-0", "a-b", "0;1", "-1"):
        with pytest.raises(InputError, match=f"--classes {text},2: --dataset digits has no {text}; its"):
            load_dataset(resolve(Options(classes=f"{text},2")))
    with pytest.raises(InputError, match="the classes of its training images are 3; must be two"):
        load_dataset(resolve(Options(classes="3")))


def test_classes_are_the_labels_that_there_are(tmp_path):
    """As in EMNIST's letters, whose labels begin with 1; a label in between may be missing too."""
    labels = np.array([1, 2, 5, 1, 2, 5, 1, 2, 5])
    for prefix, part in (("train", labels), ("t10k", labels[:2])):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", 10 * part[:, None, None] * np.ones((1, 4, 4)))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", part)
    dataset = load_dataset(idx_spec(tmp_path))
    assert dataset.classes == (1, 2, 5) and dataset.num_classes == 3
    for split in dataset[:2]:
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(np.array(dataset.classes)[split.labels], split.images[:, 0, 0, 0] / 10)
    known = load_dataset(idx_spec(tmp_path), {"classes": (0, 1, 2, 5), "class_names": "0125"})
    assert known.classes == (0, 1, 2, 5) and set(known.train.labels) == {1, 2, 3}


def damage(name, content):
    def apply(folder):
        (folder / name).write_bytes(content((folder / name).read_bytes()))

    return apply


LABELS = "t10k-labels-idx1-ubyte"
FAULTS = {
    "missing": (lambda folder: (folder / LABELS).unlink(), r"one file t10k-labels-idx.*; it holds none"),
    "truncated": (damage(LABELS, lambda b: b[:-3]), "cannot be read .*array of size 17 into shape"),
    "no idx": (damage(LABELS, lambda b: b"hello"), r"cannot be read \(it is no IDX file of unsigned bytes\)"),
    "empty": (damage(LABELS, lambda b: b""), "it is no IDX file"),
    "header": (damage(LABELS, lambda b: b[:6]), "cannot be read"),
    "gzip cut": (damage("train-images-idx3-ubyte.gz", lambda b: b[:50]), "cannot be read"),
    "counts": (
        lambda folder: write_idx(folder / LABELS, np.zeros(19)),
        r"test part: has images of shape \(20, 6, 5\) .*, and labels of shape \(19,\) and uint8; must be",
    ),
    "classes": (
        lambda folder: write_idx(folder / LABELS, np.full(20, 9)),
        "holds images of 9, which the model does not learn; its classes are 0, 1. Add training images, or",
    ),
    "one class": (
        lambda folder: write_idx(folder / "train-labels-idx1-ubyte.gz", np.full(64, 3)),
        "the classes of its training images are 3; must be two at least",
    ),
    "no image": (
        lambda folder: [
            write_idx(folder / f"train-{name}-ubyte.gz", np.zeros(shape))
            for name, shape in (("images-idx3", (0, 6, 5)), ("labels-idx1", (0,)))
        ],
        "the classes of its training images are none; must be two at least",
    ),
    "shapes": (
        lambda folder: write_idx(folder / "t10k-images-idx3-ubyte", np.zeros((20, 7, 5))),
        "must have one shape",
    ),
    "two sets": (
        lambda folder: write_idx(folder / "other-t10k-labels-idx1-ubyte", np.zeros(20)),
        "it holds other-t10k-labels-idx1-ubyte, t10k-labels-idx1-ubyte",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_file_is_said_in_one_line(idx_folder, fault):
    apply, message = FAULTS[fault]
    apply(idx_folder)
    with pytest.raises(InputError, match=message) as raised:
        load_dataset(idx_spec(idx_folder))
    assert str(idx_folder) in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_folder_is_named(idx_folder):
    with pytest.raises(InputError, match="nowhere: is no folder; it must be one that holds"):
        load_dataset(idx_spec(idx_folder / "nowhere"))


def test_a_gzipped_and_a_plain_copy_are_one_file(idx_folder):
    content = (idx_folder / LABELS).read_bytes()
    (idx_folder / f"{LABELS}.gz").write_bytes(gzip.compress(content))
    assert len(load_dataset(idx_spec(idx_folder)).test.labels) == 20


def test_read_idx_takes_the_sizes_from_the_header(tmp_path):
    (tmp_path / "x").write_bytes(struct.pack(">HBB2I", 0, 8, 2, 2, 3) + bytes(range(6)))
    np.testing.assert_array_equal(read_idx(tmp_path / "x"), [[0, 1, 2], [3, 4, 5]])


GREY = np.full((4, 8, 8), 1.0), np.arange(4) % 2


def test_a_dataset_of_ones_own_may_give_plain_arrays(monkeypatch):
    monkeypatch.setitem(registry.DATASETS, "own", Source(lambda request: (GREY, GREY)))
    dataset = load_dataset(resolve(Options(dataset="own", batch_size=2)))
    assert dataset.image_shape == (8, 8, 1) and dataset.train.images.dtype == np.float32


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ((GREY[0][0], GREY[1]), r"has images of shape \(8, 8\) and float64, and labels of shape \(4,\)"),
        ((GREY[0], np.eye(2)[GREY[1]]), r".*and labels of shape \(4, 2\) and float64; must be numbers"),
        ((GREY[0] * np.nan, GREY[1]), "holds values that are no finite float32"),
    ],
    ids=["one image", "one hot", "nan"],
)
def test_a_fault_of_a_dataset_of_ones_own_is_said_in_one_line(monkeypatch, test, message):
    """Without the check the last one ended after an epoch, and blamed the learning rate."""
    monkeypatch.setitem(registry.DATASETS, "own", Source(lambda request: (GREY, test)))
    with pytest.raises(InputError, match=f"--dataset own, test part: {message}"):
        load_dataset(resolve(Options(dataset="own", batch_size=2)))
