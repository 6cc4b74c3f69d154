"""Optimizers of the dense weights that torch does not have."""
