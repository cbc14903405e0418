"""The folder of a run: the options that it holds, one process at a time, files that are whole."""

import dataclasses

import pytest

from nag_optax.train.config import TrainConfig
from nag_optax.train.errors import InputError
from nag_optax.train.folder import METRICS, RunFolder, with_stored_options


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(TrainConfig(run_dir=tmp_path / "run").resolved())


def test_resume_takes_the_options_of_the_folder(finished_run):
    config = TrainConfig(run_dir=finished_run, resume=True)
    stored = with_stored_options(config, {"run_dir", "resume"})
    assert (stored.model, stored.num_epochs, stored.batch_size) == ("mlp", 3, 64) and stored.resume
    assert with_stored_options(dataclasses.replace(config, seed=4), {"resume", "seed"}).seed == 4
    fresh = TrainConfig(run_dir=finished_run)
    assert with_stored_options(fresh, {"run_dir"}) is fresh


def test_resume_finds_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default = tmp_path / "runs" / "digits-cnn-nag-0"
    default.mkdir(parents=True)
    stored = TrainConfig(model="cnn", num_epochs=7).resolved()
    (default / "config.json").write_text(stored.to_json())
    assert with_stored_options(TrainConfig(resume=True), {"resume"}).num_epochs == 7


def test_resume_of_nothing_is_refused(tmp_path):
    config = TrainConfig(run_dir=tmp_path / "typo", resume=True)
    with pytest.raises(InputError, match="typo/config.json: no such file"):
        with_stored_options(config, {"resume", "run_dir"})
    with pytest.raises(InputError, match="typo: holds no run; start one without --resume"):
        RunFolder(config.resolved()).check()


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(folder, tmp_path):
    with folder.claimed():
        with pytest.raises(InputError, match="another process is at work there"), folder.claimed():
            pass
        resumed = RunFolder(TrainConfig(run_dir=tmp_path / "run", resume=True).resolved())
        with pytest.raises(InputError, match="another process"), resumed.claimed():
            pass
    (tmp_path / "run" / ".lock").write_text("")  # as a kill leaves it
    with resumed.claimed():
        pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_folder_that_filled_up_meanwhile_is_refused(folder, tmp_path):
    folder.check()
    with folder.claimed():
        pass
    with pytest.raises(InputError, match="is not empty"), folder.claimed():
        pass


@pytest.mark.parametrize("name", ["x" * 300, "link"])
def test_a_name_that_is_no_folder(tmp_path, name):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="--run-dir"):
        RunFolder(TrainConfig(run_dir=tmp_path / name).resolved()).check()


def test_rows_end_where_they_were_cut_short(folder):
    folder.path.mkdir()
    assert folder.rows() == []
    (folder.path / METRICS).write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert folder.rows() == [{"epoch": 1}, {"epoch": 2}]
    folder.write_rows([{"epoch": 3}])
    assert folder.rows() == [{"epoch": 3}]


def test_a_text_appears_complete_and_leaves_nothing_beside_it(folder):
    folder.path.mkdir()
    folder.write("x.json", "old")
    folder.write("x.json", "new")
    assert [(p.name, p.read_text()) for p in folder.path.iterdir()] == [("x.json", "new")]
