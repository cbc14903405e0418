"""Checkpoints: whole or absent, and damage is noticed whichever file it hits."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.errors import InputError


def state(value: float):
    return {"params": {"w": jnp.full((50, 40), value), "b": jnp.zeros(3)}, "none": None, "empty": ()}


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (10, 20, 30, 40):
        checkpoints.save(step, state(step), {"seconds": float(step)})
    return checkpoints


def restore(checkpoints: Checkpoints):
    said: list[str] = []
    return checkpoints.restore(state(0.0), said.append), said


def test_the_newest_comes_back_to_the_bit_and_the_last_three_are_kept(checkpoints):
    restored, said = restore(checkpoints)
    assert restored is not None and said == []
    assert (restored.step, restored.notes) == (40, {"seconds": 40.0})
    jax.tree.map(np.testing.assert_array_equal, restored.state, state(40.0))
    assert checkpoints.steps() == [40, 30, 20]


def test_an_empty_folder_has_none(tmp_path):
    assert Checkpoints(tmp_path).restore(state(0.0), print) is None
    assert Checkpoints(tmp_path / "missing").steps() == []


def files(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def test_a_flipped_bit_in_any_file_is_noticed(checkpoints, tmp_path):
    newest = tmp_path / "checkpoints" / "40"
    assert len(files(newest)) >= 4
    for path in files(newest):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        restored, said = restore(checkpoints)
        assert restored is not None and restored.step == 30, path
        assert len(said) == 1 and str(newest) in said[0] and "using the one before, of step 30" in said[0]
        path.write_bytes(content)
    assert restore(checkpoints)[0].step == 40  # pyright: ignore[reportOptionalMemberAccess]


def test_a_missing_file_and_a_damaged_record_are_noticed(checkpoints, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder / "40" / "state")
    (folder / "30.json").write_text("{")
    restored, said = restore(checkpoints)
    assert restored is not None and restored.step == 20
    assert len(said) == 2


def test_only_damaged_ones_are_an_error_that_says_what_to_do(checkpoints, tmp_path):
    for step in (20, 30, 40):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    with pytest.raises(InputError, match="none is left: start again with --overwrite"):
        restore(checkpoints)


def test_the_reason_of_damage_is_one_short_line(checkpoints, monkeypatch):
    def refuse(step, like):
        raise ValueError("shapes differ: " + "1 2 3 " * 5000 + "\nand more")

    monkeypatch.setattr(checkpoints, "_load", refuse)
    with pytest.raises(InputError) as raised:
        restore(checkpoints)
    for part in str(raised.value).split("; ")[:3]:
        assert re.search(r"is damaged \(shapes differ: .{80,110} …\)$", part)


def test_one_without_its_record_was_not_completed(checkpoints, tmp_path):
    (tmp_path / "checkpoints" / "40.json").unlink()
    restored, said = restore(checkpoints)
    assert restored is not None and restored.step == 30 and said == []
    checkpoints.save(40, state(41.0), {})  # over the remains
    again, _ = restore(checkpoints)
    assert again is not None
    np.testing.assert_array_equal(again.state["params"]["w"], 41.0)


def test_saving_after_a_damaged_one_was_passed_over(checkpoints, tmp_path):
    shutil.rmtree(tmp_path / "checkpoints" / "40" / "state")
    checkpoints.save(35, state(35.0), {})
    assert checkpoints.steps() == [35, 30, 20]
    restored, said = restore(checkpoints)
    assert restored is not None and restored.step == 35 and said == []


def test_a_full_disk_is_said_before_orbax_meets_it(checkpoints, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(InputError, match=r"could not be written \(the disk has 0.0 MB left") as raised:
        checkpoints.save(50, state(50.0), {})
    assert "\n" not in str(raised.value)
    assert checkpoints.steps() == [40, 30, 20]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, state(1.0), {})
