"""The commands of `smt`, one module per group. Nothing heavy is imported before a command runs."""
