"""The comparison behind `nag-optax compare`; needs the extra `train`."""
