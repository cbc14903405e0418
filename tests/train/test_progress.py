"""What a run prints."""

from nag_optax.train.progress import epoch_line


def test_the_line_of_an_epoch_fits_a_terminal():
    row = {"epoch": 100, "train_loss": 1.2e-12, "train_accuracy": 1.0, "seconds": 123.45}
    assert epoch_line({**row, "validation_accuracy": None, "test_accuracy": 0.5}, 100) == (
        "epoch 100/100  loss 1.2e-12  train 100.00%  test  50.00%  123.45 s"
    )
    widest = epoch_line({**row, "validation_accuracy": 1.0, "test_accuracy": 1.0}, 100)
    assert "  val 100.00%  test 100.00%" in widest and len(widest) <= 80
