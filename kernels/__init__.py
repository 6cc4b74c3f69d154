"""smt.kernels"""
