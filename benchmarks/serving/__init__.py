"""A load on an OpenAI-compatible server, and its measured result: `python -m benchmarks.serving --help`."""
