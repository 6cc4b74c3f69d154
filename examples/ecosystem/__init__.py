"""Thirteen scenarios of three real data sets on one template: what development cycles are run on."""
