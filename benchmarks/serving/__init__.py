"""A load on an OpenAI-compatible endpoint, and what came of it: `python -m benchmarks.serving --help`."""
