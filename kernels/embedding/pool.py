"""Rows of a quantised table as the CPU kernels read them: values, scale and bias of a row side by side."""

import torch
from torch import Tensor


def pool_rows(quantised: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """One row of bytes per row of the table, so that a lookup touches one place: the int8 values, the scale, the bias.

    Args:
        quantised: what `quantise_rows` returns: (q [R, dim] int8, scale [R] float32, bias [R] float32).

    Returns:
        [R, dim + 8] uint8; scale and bias in the byte order of this machine.

    Raises:
        ValueError: a dtype or a shape is another one.
    """
    q, scale, bias = quantised
    rows = q.shape[:1]
    if q.dim() != 2 or q.dtype != torch.int8:
        raise ValueError(f"q: found {q.dtype} {tuple(q.shape)}; expected torch.int8 [rows, dim]")
    for name, of_row in (("scale", scale), ("bias", bias)):
        if of_row.shape != rows or of_row.dtype != torch.float32:
            raise ValueError(
                f"{name}: found {of_row.dtype} {tuple(of_row.shape)}; expected torch.float32 {tuple(rows)}, one a row"
            )
    parts = [q.view(torch.uint8)]
    parts += [of_row.contiguous().unsqueeze(1).view(torch.uint8) for of_row in (scale, bias)]
    return torch.cat(parts, dim=1)
