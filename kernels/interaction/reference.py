"""Specification of the `dot` and `fm` interactions: what pairs of a row's feature vectors have in common."""

import torch
from torch import Tensor


def dot(vectors: Tensor, concat_first: bool = False) -> Tensor:
    """Dot products of all pairs of a row's vectors (DLRM, arXiv 1906.00091).

    Args:
        vectors: [B, F, dim]; DLRM puts the dense arch's output first and the pooled embeddings after it.
        concat_first: whether vector 0 is put before the products, as DLRM does with the dense arch's output.

    Returns:
        [B, F (F - 1) / 2], the strictly lower triangle row by row: (1, 0), (2, 0), (2, 1), (3, 0) …;
        [B, dim + F (F - 1) / 2] with `concat_first`.
    """
    count = vectors.shape[1]
    row, column = torch.tril_indices(count, count, offset=-1, device=vectors.device)
    products = torch.matmul(vectors, vectors.transpose(1, 2))[:, row, column]
    return torch.cat([vectors[:, 0], products], dim=1) if concat_first else products


def fm(vectors: Tensor) -> Tensor:
    """Second-order term of a factorisation machine: the dot products of all pairs, summed (Rendle, ICDM 2010, eq. 5).

    Σ_{i<j} ⟨v_i, v_j⟩ = ½ Σ_d ((Σ_i v_id)² - Σ_i v_id²), which is linear in the number of vectors.

    Args:
        vectors: [B, F, dim], each feature's factors times its value.

    Returns:
        [B, 1].
    """
    total = vectors.sum(dim=1)
    return ((total * total).sum(dim=1, keepdim=True) - (vectors * vectors).sum(dim=(1, 2)).unsqueeze(1)) / 2
