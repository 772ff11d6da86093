"""What the guard costs: `python -m tests.perf.guard --help`."""
