"""Manifests as plain dicts, built by pure functions from the spec."""
