"""One page from results of benchmarks.serving: `python -m benchmarks.report --help`."""
