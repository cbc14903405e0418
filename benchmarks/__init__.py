"""Measurements against peers, each a module to run: `python -m benchmarks.step --help`."""
