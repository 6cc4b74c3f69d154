"""Shared experts with one softmax gate per task: MMoE (Ma et al., KDD 2018, doi 10.1145/3219819.3220007)."""

from smt.kernels.experts.reference import experts

__all__ = ["experts"]
