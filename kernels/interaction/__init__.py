"""Interactions without weights: pairwise dot products (arXiv 1906.00091), factorisation machine (Rendle 2010)."""

from smt.kernels.interaction.reference import dot, fm

__all__ = ["dot", "fm"]
