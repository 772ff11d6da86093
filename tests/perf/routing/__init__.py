"""Ways to choose among slices, compared: `python -m tests.perf.routing --help`."""
