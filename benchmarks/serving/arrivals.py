"""When open-loop requests are meant to be sent: seconds from the start, in order, exactly as many as the rate asks for.

A random pattern with a set number in a set time is the usual one given that number: only the total is no longer left to chance.
"""

from math import sqrt
from random import Random

PATTERNS = ("poisson", "constant", "bursts", "ramp")
_BURST = 16  # requests at the same instant
_RAMP_START = 0.1  # of the rate


def arrivals(pattern: str, rate: float, duration_s: float, seed: int) -> list[float]:
    """Offsets below `duration_s`, `rate` per second on the average; of a ramp it is the rate at the end."""
    mean = (1 + _RAMP_START) / 2 if pattern == "ramp" else 1.0
    count = round(rate * duration_s * mean)
    if pattern == "constant":
        return [number / rate for number in range(count)]
    random = Random(seed)  # noqa: S311 - not for secrets
    if pattern == "bursts":
        starts = sorted(random.random() for _ in range(-(-count // _BURST)))
        return [start * duration_s for start in starts for _ in range(_BURST)][:count]
    shares = sorted(random.random() for _ in range(count))
    if pattern == "ramp":  # the inverse of how much of the requests has been sent at each share of the time
        a, b = (1 - _RAMP_START) / 2, _RAMP_START
        shares = [(sqrt(b * b + 4 * a * (a + b) * share) - b) / (2 * a) for share in shares]
    return [share * duration_s for share in shares]
