"""smt.training"""
