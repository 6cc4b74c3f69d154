"""A stack of linear layers with an activation after each one."""

from smt.kernels.mlp.reference import ACTIVATIONS, mlp

__all__ = ["ACTIVATIONS", "mlp"]
