"""Techniques: named changes to a template, one module each; see technique.py."""
