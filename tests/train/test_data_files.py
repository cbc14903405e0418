"""Datasets of few files: CIFAR's binary ones, arrays, EMNIST's names, and runs without a test part."""

from pathlib import Path

import numpy as np
import pytest

from nag_optax.train.data import load_dataset
from nag_optax.train.errors import InputError
from nag_optax.train.options import Options
from nag_optax.train.spec import Spec, resolve
from tests.train.conftest import write_idx


def spec_of(dataset: str, path: Path, **options) -> Spec:
    return resolve(Options(dataset=dataset, data_dir=path, batch_size=2, **options))


def write_cifar(path: Path, labels: list[int], coarse: bool = False) -> np.ndarray:
    """A binary file, and its images (N, 32, 32, 3)."""
    images = np.random.default_rng(len(labels)).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    planes = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
    fine = np.array(labels, np.uint8)[:, None]
    path.write_bytes(np.concatenate([*([fine // 5] if coarse else []), fine, planes], axis=1).tobytes())
    return images


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    for i in range(1, 6):
        write_cifar(tmp_path / f"data_batch_{i}.bin", [i, 9][: i + 1])
    write_cifar(tmp_path / "test_batch.bin", [9, 1, 2])
    return tmp_path


def test_cifar10_is_read_from_its_six_binary_files(cifar10):
    last = write_cifar(cifar10 / "data_batch_5.bin", [5, 9, 0])
    dataset = load_dataset(spec_of("cifar10", cifar10))
    assert dataset.train.images.shape == (11, 32, 32, 3) and dataset.test.images.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(dataset.train.images[-3:], last)
    labels = np.array(dataset.classes)[dataset.train.labels]
    np.testing.assert_array_equal(labels, [1, 9, 2, 9, 3, 9, 4, 9, 5, 9, 0])
    assert dataset.class_names == ("0", "1", "2", "3", "4", "5", "9")
    names = [f"name{i}" for i in range(10)]
    (cifar10 / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    assert load_dataset(spec_of("cifar10", cifar10)).class_names[-1] == "name9"


def test_cifar100_has_fine_labels_and_may_stand_in_its_archive_s_folder(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    images = write_cifar(folder / "train.bin", [99, 7, 50], coarse=True)
    write_cifar(folder / "test.bin", [7], coarse=True)
    dataset = load_dataset(spec_of("cifar100", tmp_path))
    np.testing.assert_array_equal(dataset.train.images, images)
    np.testing.assert_array_equal(dataset.train.labels, [2, 0, 1])
    assert dataset.classes == (7, 50, 99)


CIFAR_FAULTS = {
    "pickles": (
        lambda folder: (folder / "data_batch_3.bin").rename(folder / "data_batch_3"),
        "data_batch_3: is of the version for Python.*take the binary version",
    ),
    "missing": (lambda folder: (folder / "test_batch.bin").unlink(), "test_batch.bin: cannot be read"),
    "cut": (
        lambda folder: (folder / "test_batch.bin").write_bytes(b"x" * 3072),
        "test_batch.bin: cannot be read .*array of size 3072 into shape",
    ),
    "empty": (lambda folder: (folder / "test_batch.bin").write_bytes(b""), "holds no test images"),
}


@pytest.mark.parametrize("fault", CIFAR_FAULTS)
def test_a_fault_of_cifar_s_files_is_said_in_one_line(cifar10, fault):
    apply, message = CIFAR_FAULTS[fault]
    apply(cifar10)
    with pytest.raises(InputError, match=message) as raised:
        load_dataset(spec_of("cifar10", cifar10))
    assert str(cifar10) in str(raised.value) and "\n" not in str(raised.value)


IMAGES = np.arange(12 * 4 * 3, dtype=np.uint8).reshape(12, 4, 3)
LABELS = np.arange(12) % 2


def test_arrays_go_by_our_keys_and_by_those_of_keras(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:4], test_labels=LABELS[:4])
    ours = load_dataset(spec_of("arrays", path))
    assert ours.image_shape == (4, 3, 1) and ours.train.images.dtype == np.uint8
    np.testing.assert_array_equal(ours.train.labels, LABELS)
    np.testing.assert_array_equal(ours.test.images[..., 0], IMAGES[:4])
    np.savez(
        path,
        x_train=IMAGES[..., None],
        y_train=LABELS[:, None],
        x_test=IMAGES[:4, ..., None],
        y_test=LABELS[:4],
    )
    assert load_dataset(spec_of("arrays", path)).digest == ours.digest
    np.savez(path, x_train=IMAGES / 255, y_train=LABELS)
    alone = load_dataset(spec_of("arrays", path))
    assert alone.train.images.dtype == np.float32
    assert len(alone.train.labels) + len(alone.test.labels) == 12 and len(alone.test.labels) in (1, 2, 3, 4)
    assert not set(map(bytes, alone.train.images)) & set(map(bytes, alone.test.images))


ARRAY_FAULTS = {
    "keys": ({"a": IMAGES}, "holds a; must hold train_images, train_labels, .* or x_train"),
    "pickle": ({"x_train": np.array([{}]), "y_train": LABELS}, "is no file of numbers that numpy.save"),
    "axes": ({"x_train": IMAGES[0], "y_train": LABELS}, r"images of shape \(4, 3\) and uint8"),
    "text": ({"x_train": IMAGES.astype(str), "y_train": LABELS}, "and <U3, and labels .* must be numbers"),
    "floats": ({"x_train": IMAGES, "y_train": LABELS / 2}, r"labels of shape \(12,\) and float64; must be"),
    "negative": ({"x_train": IMAGES, "y_train": LABELS - 1}, "and N whole numbers of at least 0"),
    "counts": ({"x_train": IMAGES, "y_train": LABELS[1:]}, r"labels of shape \(11,\)"),
    "nan": ({"x_train": IMAGES * np.nan, "y_train": LABELS}, "holds values that are no finite float32"),
}


@pytest.mark.parametrize("fault", ARRAY_FAULTS)
def test_a_fault_of_arrays_is_said_in_one_line(tmp_path, fault):
    arrays, message = ARRAY_FAULTS[fault]
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InputError, match=message) as raised:
        load_dataset(spec_of("arrays", tmp_path / "set.npz"))
    assert "set.npz" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04hello"])
def test_a_file_of_no_arrays_is_refused(tmp_path, content):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(InputError, match="set.npz: is no file of numbers that numpy.save"):
        load_dataset(spec_of("arrays", tmp_path / "set.npz"))
    np.save(tmp_path / "one.npy", IMAGES)
    with pytest.raises(InputError, match="one.npy: holds one array without a name; must hold"):
        load_dataset(spec_of("arrays", tmp_path / "one.npy"))
    with pytest.raises(InputError, match="nowhere.npz: cannot be read"):
        load_dataset(spec_of("arrays", tmp_path / "nowhere.npz"))


def test_emnist_s_mapping_names_its_classes(tmp_path):
    """The labels of its letters begin with 1; a line has the code points of capital and small letter."""
    for part in ("train", "test"):
        write_idx(tmp_path / f"emnist-letters-{part}-images-idx3-ubyte.gz", IMAGES)
        write_idx(tmp_path / f"emnist-letters-{part}-labels-idx1-ubyte.gz", LABELS + 1)
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n")
    dataset = load_dataset(spec_of("mnist", tmp_path))
    assert dataset.classes == (1, 2) and dataset.class_names == ("Aa", "Bb")
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 A\n")
    with pytest.raises(InputError, match=r"mapping.txt: cannot be read \(invalid literal for int"):
        load_dataset(spec_of("mnist", tmp_path))


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "arrays"])
def test_train_only_needs_no_test_files(idx_folder, cifar10, tmp_path, dataset):
    """A test part that is there is still read: evaluation uses it later."""
    path = {"mnist": idx_folder, "cifar10": cifar10, "arrays": tmp_path / "set.npz"}[dataset]
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS)
    with_test = load_dataset(spec_of(dataset, path, train_only=True))
    assert len(with_test.test.labels) > 0
    for file in [*idx_folder.glob("t10k*"), cifar10 / "test_batch.bin"]:
        file.unlink()
    np.savez(tmp_path / "set.npz", x_train=IMAGES, y_train=LABELS)
    alone = load_dataset(spec_of(dataset, path, train_only=True, image_size=8))
    assert len(alone.test.labels) == 0 and alone.digest == with_test.digest
    assert alone.test.images.shape[1:] == alone.image_shape
