"""smt.training"""

import os

# Threads that wait for the next parallel region sleep instead of spinning for ever: the tables' backward has one region
# after the other, and a machine that does anything besides training it would slow tenfold. They spin for less than a
# millisecond before they sleep, which bridges what one thread does between the layers' products.
# Both are read when torch is first loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
