"""Pictures in folders: how they are found, decoded and split, and which folders are refused."""

import io
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from nag_optax.train import progress
from nag_optax.train.data import load_dataset
from nag_optax.train.data.parts import in_test_part
from nag_optax.train.data.pictures import SUFFIXES, decode
from nag_optax.train.errors import InputError
from nag_optax.train.options import Options
from nag_optax.train.spec import Spec, resolve
from nag_optax.train.transfer import check_same_shapes, facts_of
from tests.train.conftest import output


def spec_of(folder: Path, **options) -> Spec:
    return resolve(Options(dataset="folder", data_dir=folder, batch_size=2, **options))


def picture(path: Path, value: Any = 100, size=(6, 5), mode="RGB", **options) -> Path:
    """One colour, of a file's usual format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """train and test of cat, dark, and dog, bright: three and two grey pictures of 6 x 5 pixels each."""
    for part, count in (("train", 3), ("test", 2)):
        for name, value in (("cat", 50), ("dog", 200)):
            for i in range(count):
                picture(tmp_path / "set" / part / name / f"{i}.png", value + i, mode="L")
    return tmp_path / "set"


def test_classes_are_the_folders_in_the_order_of_their_names(pictures):
    dataset = load_dataset(spec_of(pictures))
    assert dataset.class_names == ("cat", "dog") and dataset.classes == (0, 1)
    assert dataset.train.images.shape == (6, 5, 6, 1) and dataset.train.images.dtype == np.uint8
    np.testing.assert_array_equal(dataset.train.images[:, 0, 0, 0], [50, 51, 52, 200, 201, 202])
    np.testing.assert_array_equal(dataset.test.images[:, -1, -1, 0], [50, 51, 200, 201])
    np.testing.assert_array_equal(dataset.train.labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(dataset.test.labels, [0, 0, 1, 1])
    (pictures / "test").rename(pictures / "val")
    assert load_dataset(spec_of(pictures)).digest == dataset.digest


def test_classes_are_chosen_by_their_names(pictures):
    for part in ("train", "test"):
        picture(pictures / part / "a-b" / "0.png", 100, mode="L")
    whole = load_dataset(spec_of(pictures))
    # The pictures of other classes are not decoded.
    (pictures / "train" / "cat" / "0.png").write_bytes(b"")
    dataset = load_dataset(spec_of(pictures, classes="dog, a-b"))
    for part, of_whole in ((dataset.train, whole.train), (dataset.test, whole.test)):
        np.testing.assert_array_equal(part.images, of_whole.images[of_whole.labels != 1])
    assert dataset.class_names == ("a-b", "dog") and dataset.classes == (0, 2)
    assert load_dataset(spec_of(pictures, classes="2,a-b")).digest == dataset.digest
    with pytest.raises(
        InputError, match="--classes cat,cow: --dataset folder has no cow; its classes are a-b, "
    ):
        load_dataset(spec_of(pictures, classes="cat,cow"))
    facts = facts_of(dataset)
    assert load_dataset(spec_of(pictures, classes="dog,a-b"), facts).class_names == ("a-b", "dog")


def test_an_error_gives_the_signals_back(pictures):
    """At once: where the garbage collector did, in whatever thread, it could not."""
    (pictures / "train" / "cat" / "0.png").write_bytes(b"")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(InputError, match="cannot be decoded"):
        load_dataset(spec_of(pictures))
    assert signal.getsignal(signal.SIGINT) is before


def test_the_classes_of_a_run_keep_their_numbers_where_some_are_missing_and_no_other_is_taken(pictures):
    """The number of a folder depends on the others: without cat, dog would be number 0."""
    facts = facts_of(load_dataset(spec_of(pictures)))
    for part in ("train", "test"):
        (pictures / part / "cat").rename(pictures / f"cats of {part}")
    dataset = load_dataset(spec_of(pictures), facts)
    np.testing.assert_array_equal(dataset.train.labels, [1, 1, 1])
    check_same_shapes(dataset, facts, "--data-dir")
    (pictures / "cats of test").rename(pictures / "test" / "cat")  # The parts may differ, too.
    np.testing.assert_array_equal(load_dataset(spec_of(pictures), facts).test.labels, [0, 0, 1, 1])
    (pictures / "cats of train").rename(pictures / "train" / "hen")
    with pytest.raises(
        InputError, match="holds images of hen, which the model does not learn; its classes are cat, dog"
    ):
        load_dataset(spec_of(pictures), facts)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_spinner_says_in_a_terminal_what_is_done(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal)
    with progress.busy(console, "making the model"):
        pass
    assert ("making the model" in output(console)) == terminal == bool(output(console))


def test_a_bar_is_shown_once_it_takes_two_seconds(monkeypatch):
    seconds = iter([0.0, 1.0, 2.5, 3.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    console = Console(file=io.StringIO(), width=80)
    assert list(progress.watched(console, "abc", 3, "decoding pictures")) == ["a", "b", "c"]
    assert output(console) == "decoding pictures: 3\n"
    quick = Console(file=io.StringIO(), width=80)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    assert list(progress.watched(quick, "abc", 3, "decoding pictures")) == ["a", "b", "c"]
    assert not output(quick)


def test_one_picture_in_colour_gives_all_three_channels(pictures):
    picture(pictures / "test" / "dog" / "9.png", (10, 20, 30))
    dataset = load_dataset(spec_of(pictures))
    assert dataset.image_shape == (5, 6, 3)
    np.testing.assert_array_equal(dataset.train.images[0, 0, 0], [50, 50, 50])
    np.testing.assert_array_equal(dataset.test.images[-1, 0, 0], [10, 20, 30])


@pytest.mark.parametrize(
    "mode, value, expected",
    [
        ("1", 1, [255]),
        ("L", 77, [77]),
        ("I;16", 77 * 256 + 200, [77]),
        ("LA", (0, 0), [255]),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (1, 2, 3, 255), [1, 2, 3]),
        ("RGBA", (1, 2, 3, 0), [255, 255, 255]),
        ("P", (1, 2, 3), [1, 2, 3]),
    ],
)
def test_every_mode_of_a_png_is_grey_or_in_colour(tmp_path, mode, value, expected):
    pixels = decode(picture(tmp_path / "x.png", value, mode=mode))
    np.testing.assert_array_equal(
        pixels, np.broadcast_to(np.array(expected, np.uint8), (5, 6, len(expected)))
    )


def test_a_jpeg_of_a_printer_is_in_colour_and_one_of_a_camera_is_turned(tmp_path):
    pixels = decode(picture(tmp_path / "x.jpg", (0, 0, 0, 0), mode="CMYK"))
    assert isinstance(pixels, np.ndarray) and pixels.shape == (5, 6, 3) and pixels.min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6  # The orientation: turned by a quarter.
    turned = decode(picture(tmp_path / "y.jpg", exif=exif))
    assert isinstance(turned, np.ndarray) and turned.shape == (6, 5, 3)


def test_the_shorter_side_is_scaled_and_the_middle_is_kept(pictures):
    columns = np.repeat(np.array([0, 100, 200, 0], np.uint8), [8, 8, 8, 8])
    Image.fromarray(np.broadcast_to(columns, (16, 32)).copy()).save(pictures / "train" / "cat" / "0.png")
    with pytest.raises(InputError, match="has 6 x 5 pixels, the others have 32 x 16; say --image-size N"):
        load_dataset(spec_of(pictures))
    images = load_dataset(spec_of(pictures, image_size=4)).train.images
    assert images.shape == (6, 4, 4, 1) and images.dtype == np.uint8
    # Columns 8 to 24 are left, at 4 each; a triangle of 8 columns weighs the next colour by an eighth.
    np.testing.assert_allclose(images[0, 0, :, 0], [87.5, 112.5, 187.5, 175], atol=1)  # bytes


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_that_are_cut_short_empty_or_texts_cannot_be_decoded(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    path = tmp_path / f"x{suffix}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    assert isinstance(decode(path), np.ndarray)
    for length in range(0, len(content) * 3 // 4, 37):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="cannot be decoded"):
            decode(path)
    path.write_text("hello")
    with pytest.raises(InputError, match="cannot be decoded .it is no JPEG"):
        decode(path)


def test_a_png_whose_second_chunk_of_pixels_is_damaged_cannot_be_decoded(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    first, _, rest = (tmp_path / "x.png").read_bytes().rpartition(b"IDAT")
    (tmp_path / "x.png").write_bytes(first + b"\0\0\0\0" + rest)
    assert b"IDAT" in first
    with pytest.raises(InputError, match="cannot be decoded"):
        decode(tmp_path / "x.png")


def test_an_unreadable_picture_is_named_or_counted(pictures):
    (pictures / "train" / "cat" / "1.png").write_text("hello")
    with pytest.raises(InputError, match=r"cat/1.png: cannot be decoded \(it is no JPEG.*--skip-unreadable"):
        load_dataset(spec_of(pictures))
    console = Console(file=io.StringIO(), width=300)
    dataset = load_dataset(spec_of(pictures, skip_unreadable=True), console=console)
    assert "1 of 10 pictures cannot be decoded and are left out" in output(console)
    np.testing.assert_array_equal(dataset.train.images[:, 0, 0, 0], [50, 52, 200, 201, 202])
    np.testing.assert_array_equal(dataset.train.labels, [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(dataset.test.labels, [0, 0, 1, 1])
    for path in pictures.glob("*/*/*.png"):
        path.write_text("hello")
    with pytest.raises(InputError, match="none of its 10 pictures can be decoded"):
        load_dataset(spec_of(pictures, skip_unreadable=True))


@pytest.mark.parametrize("below", ["train", "."])
def test_without_a_test_part_a_hash_of_the_name_holds_one_sixth_out(tmp_path, below):
    names = [f"{name}/{i:02}.png" for name in ("cat", "dog") for i in range(30)]
    for value, name in enumerate(names):
        picture(tmp_path / below / name, value, size=(1, 1), mode="L")
    dataset = load_dataset(spec_of(tmp_path))
    held_out = [in_test_part(name) for name in names]
    assert 4 <= sum(held_out) <= 16  # 10 is expected, with a deviation of 2.9.
    np.testing.assert_array_equal(dataset.test.images.ravel(), np.flatnonzero(held_out))
    np.testing.assert_array_equal(dataset.train.images.ravel(), np.flatnonzero(np.invert(held_out)))
    assert len(load_dataset(spec_of(tmp_path, train_only=True)).train.labels) == 60
    # Fixed for all time: another split would make another exam.
    assert np.flatnonzero(held_out).tolist() == [2, 13, 27, 35, 37, 41, 55]


def test_no_test_picture_is_an_error_unless_only_training_is_asked_for(tmp_path):
    for name in ("cat/00.png", "cat/01.png", "dog/00.png", "dog/01.png"):  # The hash holds none of them out.
        picture(tmp_path / "set" / name)
    with pytest.raises(InputError, match="set: holds no test images; add some, or say --train-only"):
        load_dataset(spec_of(tmp_path / "set"))
    alone = load_dataset(spec_of(tmp_path / "set", train_only=True))
    assert len(alone.train.labels) == 4 and len(alone.test.labels) == 0


def test_names_may_be_of_any_bytes(tmp_path):
    names = [f"{name}/{i:02}.png" for name in ("cat", os.fsdecode(b"caf\xe9")) for i in range(10)]
    for name in names:
        picture(tmp_path / name)
    dataset = load_dataset(spec_of(tmp_path))
    assert dataset.class_names[0].encode(errors="surrogateescape") == b"caf\xe9"
    assert len(dataset.test.labels) == sum(map(in_test_part, names)) > 0


def test_other_files_are_passed_over_and_links_followed(pictures, tmp_path):
    digest = load_dataset(spec_of(pictures)).digest
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "._0.png"):
        for folder in (pictures, pictures / "train", pictures / "train" / "cat"):
            (folder / name).write_text("hello")
    (pictures / "train" / ".cache").mkdir()
    console = Console(file=io.StringIO(), width=80)
    assert load_dataset(spec_of(pictures), console=console).digest == digest
    first = pictures / "train" / "cat" / "Thumbs.db"
    endings = "pictures end in .jpg, .jpeg, .png, .webp, .bmp"
    assert output(console) == f"2 files are left out, {first} first; {endings}\n"
    (pictures / "train" / "cat").rename(tmp_path / "cats")
    (pictures / "train" / "cat").symlink_to(tmp_path / "cats")
    (tmp_path / "cats" / "0.png").rename(tmp_path / "elsewhere.png")
    (tmp_path / "cats" / "0.png").symlink_to(tmp_path / "elsewhere.png")
    assert load_dataset(spec_of(pictures)).digest == digest


def move(source: str, target: str):
    def apply(folder: Path) -> None:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / source).rename(folder / target)

    return apply


def emptied(name: str):
    def apply(folder: Path) -> None:
        for path in (folder / name).iterdir():
            path.unlink()

    return apply


FAULTS = {
    "nowhere": (move(".", "../other"), "set: is no folder; it must be one that holds a folder of pictures"),
    "other classes": (
        move("test/dog", "test/hound"),
        "train and test must hold folders of the same classes; one of them lacks dog, hound",
    ),
    "empty class": (emptied("test/dog"), r"test/dog: must hold pictures \(.jpg, .*\), and no folders"),
    "no train": (move("train", "training"), "set/test: must hold pictures .*, and no folders"),
    "too deep": (move("train/dog", "train/cat/dog"), "train/cat: must hold pictures .*, and no folders"),
    "too shallow": (move("train/dog/0.png", "train/0.png"), "train: must hold a folder of pictures for each"),
    "no class": (
        lambda folder: [move(f"train/{name}", f"../{name}")(folder) for name in ("cat", "dog")],
        "train: must hold a folder of pictures for each class, and no other pictures",
    ),
    "one class": (
        lambda folder: [move(f"{part}/dog", f"../{part}")(folder) for part in ("train", "test")],
        "the classes of its training images are cat; must be two at least",
    ),
}


def test_a_folder_that_may_not_be_read_is_named(pictures, monkeypatch):
    scan = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"train/dog: cannot be read \(Permission denied\)$"):
        load_dataset(spec_of(pictures))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_folder_is_said_in_one_line(pictures, fault):
    apply, message = FAULTS[fault]
    apply(pictures)
    with pytest.raises(InputError, match=message) as raised:
        load_dataset(spec_of(pictures))
    assert str(pictures) in str(raised.value) and "\n" not in str(raised.value)
