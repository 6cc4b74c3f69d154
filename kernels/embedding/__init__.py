"""Gather of pooled embeddings from one pool of tables."""

from smt.kernels.embedding.reference import POOLINGS, pooled_embedding

__all__ = ["POOLINGS", "pooled_embedding"]
