"""Shares of the peak rates that serving reaches, each with its source. The one place for them.

None was measured by this project, which had no TPU. Where two published runs differ, the range covers both.

The runs: Llama 3.3 70B with vLLM TPU 0.12, bfloat16, TP 8 on v6e-8, 1000 tokens in and out, prompts in chunks of 512
(AI-Hypercomputer/tpu-recipes, inference/trillium/vLLM/Llama3.x/README.md). Median time between tokens, which is a step
without prompts, and mean time per token: 23.11 and 25.35 ms at 64 sequences, 30.73 and 35.12 ms at 128.
`tests/slice/test_efficiency.py` computes them back from the figures here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """A share of a peak rate, from the lowest to the highest that the sources support."""

    low: float
    high: float


DECODE = Share(0.56, 0.61)
"""Share of the roofline of a decoding step, its collectives apart: the two runs, at 128 and at 64 sequences."""

PREFILL = Share(0.40, 0.54)
"""Share of the peak arithmetic for prompts: what jax-ml/scaling-book (inference.md) assumes, and what the runs' mean times
leave for 1000 prompt tokens for each 1000 output tokens. That leaves no room for collectives beside the arithmetic: they
overlap."""

WHOLE_STEP = 0.43
"""Time to read the weights, as a share of a whole step with everything in it: 10.8 ms of 25.35 ms in the first run."""

ICI_HOP_S = 1e-6
"""Shortest time of one hop between chips, in seconds (jax-ml/scaling-book, sharding.md: "typically around 1us")."""
