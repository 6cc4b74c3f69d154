"""Gather of pooled embeddings from one pool of tables."""

from smt.kernels.embedding.reference import (
    POOLINGS,
    dequantise_rows,
    pooled_embedding,
    pooled_embedding_int8,
    quantise_rows,
)

__all__ = ["POOLINGS", "dequantise_rows", "pooled_embedding", "pooled_embedding_int8", "quantise_rows"]
