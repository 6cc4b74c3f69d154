"""smt.training"""

import os

# Threads that wait for the next parallel region sleep instead of spinning: the tables' backward has one region after
# the other, and a machine that does anything besides training it would slow tenfold. Read when torch is first loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
