"""Census-Income as the multi-task benchmark has it: one scenario, two tasks, embeddings of 4."""
