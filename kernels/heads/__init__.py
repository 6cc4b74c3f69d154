"""One tower per task, from the task's representation to its logit."""

from smt.kernels.heads.reference import heads

__all__ = ["heads"]
