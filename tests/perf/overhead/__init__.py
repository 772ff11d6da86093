"""What our stack costs over a bare server with the same engine: `python -m tests.perf.overhead --help`."""
