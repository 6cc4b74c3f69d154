"""smt.serving"""
