"""Census-Income: four scenarios from one template. `demo` is the whole line, `evaluate` scores any file of rows."""
