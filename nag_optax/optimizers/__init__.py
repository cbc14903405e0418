"""Ready optimizers, one file each, put together from the accelerator and Optax's parts."""
