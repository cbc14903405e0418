"""The trainer behind `nag-optax train`; needs the extra `train`."""
