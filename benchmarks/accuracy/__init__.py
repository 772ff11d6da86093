"""How right a served model is, so that speed is not bought blindly: `python -m benchmarks.accuracy --help`."""
