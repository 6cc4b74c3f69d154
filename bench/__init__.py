"""Benchmarks: every claim of speed or quality is a result file written by a command of this folder or of the demo."""
