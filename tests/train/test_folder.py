"""The folder of a run: the options that it holds, one process at a time, files that are whole."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nag_optax.train.errors import InputError
from nag_optax.train.folder import METRICS, SUMMARY, RunFolder, _locked, as_begun, stored_options
from nag_optax.train.options import Options
from nag_optax.train.spec import resolve


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(resolve(Options(run_dir=tmp_path / "run")))


def test_resume_takes_the_options_of_the_folder(finished_run):
    options = Options(run_dir=finished_run, resume=True)
    stored = stored_options(options)
    assert (stored.model, stored.num_epochs, stored.batch_size) == ("mlp", 3, 64)


def test_a_longer_run_keeps_the_warm_up_that_it_began_with(finished_run):
    longer = as_begun(Options(model="mlp", batch_size=64, num_epochs=50, run_dir=finished_run, resume=True))
    assert longer.warmup_epochs == 0.3 and resolve(Options(model="mlp", num_epochs=50)).warmup_epochs == 1
    RunFolder(resolve(longer)).check()


def test_resume_finds_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default = tmp_path / "runs" / "digits-cnn-nag-0"
    default.mkdir(parents=True)
    stored = resolve(Options(model="cnn", num_epochs=7))
    (default / "config.json").write_text(stored.to_json())
    assert stored_options(Options(resume=True)).num_epochs == 7


def test_resume_of_nothing_is_refused(tmp_path):
    options = Options(run_dir=tmp_path / "typo", resume=True)
    with pytest.raises(InputError, match="--run-dir .*typo/config.json: no such file"):
        stored_options(options)
    with pytest.raises(InputError, match="typo: holds no run; start one without --resume"):
        RunFolder(resolve(options)).check()


@pytest.mark.parametrize("name", ["old [2024]", "a*", "what?", "back\\slash"])
def test_a_folder_in_which_no_checkpoint_can_be_written_is_refused(name, tmp_path, monkeypatch):
    """Orbax would write one that it cannot read."""
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    message = re.escape(f"runs/x: no checkpoint can be written in {tmp_path / name}/runs/x, because of the ")
    with pytest.raises(InputError, match=message):
        RunFolder(resolve(Options(run_dir=Path("runs/x")))).check()


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(folder, tmp_path):
    with folder.claimed():
        with pytest.raises(InputError, match="another process is at work there"), folder.claimed():
            pass
        resumed = RunFolder(resolve(Options(run_dir=tmp_path / "run", resume=True)))
        with pytest.raises(InputError, match="another process"), resumed.claimed():
            pass
    (tmp_path / "run" / ".lock").write_text("")  # as a kill leaves it
    with resumed.claimed():
        pass
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "config.json"}


def test_a_process_that_opened_the_lock_before_another_one_ended_keeps_a_third_out(folder, tmp_path):
    with folder.claimed():
        second = open(tmp_path / "run" / ".lock", "w")
    third = RunFolder(resolve(Options(run_dir=tmp_path / "run", resume=True)))
    with second:
        assert _locked(second)
        with pytest.raises(InputError, match="another process is at work there"), third.claimed():
            pass


def test_files_are_in_utf_8_whatever_the_locale(tmp_path):
    code = (
        "from pathlib import Path; from types import SimpleNamespace; from nag_optax.train.folder import *\n"
        "RunFolder(SimpleNamespace(run_dir=Path())).write('table.md', '200 \\xb1 141 \\u2013')"
    )
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | settings, check=True)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == "200 ± 141 –"


def test_a_folder_that_filled_up_meanwhile_is_refused(folder, tmp_path):
    folder.check()
    with folder.claimed():
        pass
    with pytest.raises(InputError, match="is not empty"), folder.claimed():
        pass


@pytest.mark.parametrize("name", ["x" * 300, "link", "file"])
def test_a_name_that_is_no_folder(tmp_path, name):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    folder = RunFolder(resolve(Options(run_dir=tmp_path / name)))
    with pytest.raises(InputError, match="--run-dir .*: cannot be used"), folder.claimed():
        pass


def row(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "step": 23 * epoch}


@pytest.mark.parametrize("damage", ['{"epo', "\xff"])
def test_rows_end_where_they_are_damaged(folder, damage):
    folder.path.mkdir()
    assert folder.rows() == []
    folder.write_rows([row(1), row(2)])
    with open(folder.path / METRICS, "a") as file:
        file.write(f"{damage}\n{json.dumps(row(4))}\n")
    assert folder.rows() == [row(1), row(2)]
    folder.write_rows([row(3)])
    assert folder.rows() == [row(3)]


def test_a_folder_in_the_place_of_a_file_holds_nothing(folder):
    for name in (METRICS, SUMMARY):
        (folder.path / name).mkdir(parents=True)
    assert folder.rows() == [] and folder.read(SUMMARY) is None


@pytest.mark.parametrize("text", ['{"epo', "\xff"])
def test_a_damaged_summary_is_none(folder, text):
    folder.path.mkdir()
    (folder.path / SUMMARY).write_text(text, encoding="latin1")
    assert folder.read(SUMMARY) is None


def foreign(folder: RunFolder) -> dict[Path, str]:
    """Fills the folder with files of somebody else, under our names too."""
    files = {"config.json": '{"mine": 1}', "checkpoints/my_model.bin": "mine", "metrics.jsonl": "mine"}
    for name, text in files.items():
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text(text)
    return {folder.path / name: text for name, text in files.items()}


@pytest.mark.parametrize("config", ['{"mine": 1}', "[]", "{", None])
def test_overwrite_spares_a_folder_that_holds_no_run(tmp_path, config):
    overwriting = RunFolder(resolve(Options(run_dir=tmp_path / "run", overwrite=True)))
    files = foreign(overwriting)
    path = overwriting.path / "config.json"
    if config is None:
        del files[path]
        path.unlink()
    else:
        files[path] = config
        path.write_text(config)
    message = "holds no run" if config is None else "config.json: not a readable configuration of a run"
    with pytest.raises(InputError, match=f"is not empty, .*{message}.*; name another folder"):
        with overwriting.claimed():
            pass
    assert {p: p.read_text() for p in files} == files


def test_overwrite_of_a_run_removes_its_own_files_alone(folder, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    with folder.claimed():
        (checkpoints / "23").mkdir(parents=True)
        for path in (checkpoints / "23" / "state", checkpoints / "23.json", tmp_path / "run" / "notes.txt"):
            path.write_text("")
        folder.write_rows([row(1)])
    overwriting = RunFolder(resolve(Options(run_dir=tmp_path / "run", overwrite=True)))
    with overwriting.claimed():
        assert {path.name for path in overwriting.path.iterdir()} == {".lock", "config.json", "notes.txt"}
        assert overwriting.rows() == []


def test_the_configuration_is_the_last_file_that_goes(folder, tmp_path, monkeypatch):
    """A process killed while it clears the folder leaves one that can be overwritten again."""
    with folder.claimed():
        folder.write_rows([row(1)])
    overwriting = RunFolder(resolve(Options(run_dir=tmp_path / "run", overwrite=True)))
    removed = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **how: removed.append(path.name) or unlink(path, **how))
    with overwriting.claimed():
        assert removed[-1] == "config.json" and METRICS in removed


def test_what_a_kill_before_the_first_file_leaves_is_an_empty_folder(folder):
    folder.path.mkdir()
    for name in (".lock", "config.json.partial"):
        (folder.path / name).write_text("")
    folder.check()


def test_a_resumed_run_keeps_the_configuration_until_it_is_told_to_write(folder, tmp_path):
    with folder.claimed():
        before = (tmp_path / "run" / "config.json").read_text()
    moved = resolve(Options(run_dir=tmp_path / "run", resume=True, device="cpu"))
    with (resumed := RunFolder(moved)).claimed():
        assert (tmp_path / "run" / "config.json").read_text() == before
        resumed.write_config()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["device"] == "cpu"


def test_a_folder_that_is_removed_meanwhile_is_not_made_anew(folder):
    """It would hold no configuration, and could not be resumed."""
    with pytest.raises(InputError, match="cannot be used"), folder.claimed():
        shutil.rmtree(folder.path)
        folder.write(METRICS, "")
    assert not folder.path.exists()


def test_a_text_appears_complete_and_leaves_nothing_beside_it(folder):
    folder.path.mkdir()
    folder.write("x.json", "old")
    folder.write("x.json", "new")
    assert [(p.name, p.read_text()) for p in folder.path.iterdir()] == [("x.json", "new")]
