"""Tests of what stands in for a TPU; modules that run in the TPU engine's own Python share no import with the others."""

TOKENS = 8
"""Length of an answer whose tokens are compared."""
PROMPTS = ["Water boils at", "One, two, three, four," * 20]  # the second is longer than a sliding window
