"""What interactions share: the dense vector and the feature vectors, side by side."""

import torch
from torch import Tensor


def flat(dense: Tensor, vectors: Tensor) -> Tensor:
    """dense [B, width], vectors [B, S, dim] -> [B, width + S dim]."""
    return torch.cat([dense, vectors.flatten(1)], dim=1)
