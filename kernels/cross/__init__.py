"""DCNv2 cross layers (Wang et al., "DCN V2", arXiv 2008.13535)."""

from smt.kernels.cross.reference import cross_full, cross_low_rank

__all__ = ["cross_full", "cross_low_rank"]
