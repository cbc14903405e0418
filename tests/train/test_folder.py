"""The folder of a run: the options that it holds, and rows that a kill cut short."""

import dataclasses

from nag_optax.train.config import TrainConfig
from nag_optax.train.folder import read_rows, with_stored_options, write_text


def test_resume_takes_the_options_of_the_folder(finished_run):
    config = TrainConfig(run_dir=finished_run, resume=True)
    stored = with_stored_options(config, {"run_dir", "resume"})
    assert (stored.model, stored.num_epochs, stored.batch_size) == ("mlp", 3, 64) and stored.resume
    assert with_stored_options(dataclasses.replace(config, seed=4), {"resume", "seed"}).seed == 4
    fresh = TrainConfig(run_dir=finished_run)
    assert with_stored_options(fresh, {"run_dir"}) is fresh


def test_rows_end_where_a_kill_cut_them_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == []
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert read_rows(path) == [{"epoch": 1}, {"epoch": 2}]


def test_a_text_appears_complete_and_leaves_nothing_beside_it(tmp_path):
    write_text(tmp_path / "x.json", "old")
    write_text(tmp_path / "x.json", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.json", "new")]
