"""Frappe: which app a person uses in a context."""
