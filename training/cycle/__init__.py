"""Development cycles: which techniques a template takes up, decided on a representative set of its scenarios.

jobs.py, store.py       one training run and its record, by content; what has a record is not run again
execute.py, worker.py   does a job; local.py and ray_executor.py spread jobs over processes and machines
statistics.py           paired differences and their intervals
descriptors.py          what scenarios are like, and which represent the others
screening.py, combining.py, cycle.py    the decisions
independent.py          the other way: each scenario tuned alone
report/                 one page of HTML about all of it
"""
