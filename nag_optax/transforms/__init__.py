"""Parts that go in front of the accelerator, one file each."""
