"""What tokens cost on chips with a price by the hour."""

from dataclasses import dataclass

from benchmarks.serving.result import Run

_MILLION, _HOUR_S = 1e6, 3600


@dataclass(frozen=True)
class Cost:
    """In the currency of the price."""

    per_million_output: float
    """All of the cost laid on output tokens."""
    per_million_total: float
    """Laid on prompt and output tokens alike."""


def cost(run: Run, chips: int, price: float) -> Cost | None:
    """For a price per chip and hour; None for a run without tokens."""
    output, total = run.figures["output_tok_per_s"], run.figures["total_tok_per_s"]
    if not output or not total:
        return None
    per_second = chips * price / _HOUR_S
    return Cost(_MILLION * per_second / output, _MILLION * per_second / total)
