"""Layers for Flax that are fast on a CPU, also in a loop. The trainer's models are made of them."""
