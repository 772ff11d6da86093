"""What the guard costs: `python -m benchmarks.guard --help`."""
