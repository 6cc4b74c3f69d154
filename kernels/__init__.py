"""Ops of the ranking templates. Each op is a folder whose `reference.py` is its specification.

`KERNEL_VERSION` is part of every template's ABI hash: raise it when an op changes what it computes or how it
reads its weights, so that a snapshot made for the old op is refused by the new one.
"""

KERNEL_VERSION = 1
