"""When open-loop requests are meant to be sent: seconds from the start, in order, exactly as many as the rate asks for.

A random pattern with a set number in a set time is the usual one given that number: only the total is no longer left to chance.
"""

PATTERNS = ("poisson", "constant", "bursts", "ramp")
_BURST = 16  # requests at the same instant
_RAMP_START = 0.1  # of the rate


def arrivals(pattern: str, rate: float, duration_s: float, seed: int) -> list[float]:
    """Offsets below `duration_s`, `rate` per second on the average; of a ramp it is the rate at the end."""
    mean = (1 + _RAMP_START) / 2 if pattern == "ramp" else 1.0
    count = round(rate * duration_s * mean)
    if pattern == "constant":
        return [number / rate for number in range(count)]
    import numpy as np  # not at the top: `--help` names the patterns

    random = np.random.default_rng(seed)
    if pattern == "bursts":
        starts = np.sort(random.random(-(-count // _BURST)))
        return [float(start) * duration_s for start in np.repeat(starts, _BURST)[:count]]
    shares = np.sort(random.random(count))
    if pattern == "ramp":  # the inverse of how much of the requests has been sent at each share of the time
        a, b = (1 - _RAMP_START) / 2, _RAMP_START
        shares = (np.sqrt(b * b + 4 * a * (a + b) * shares) - b) / (2 * a)
    return [float(share) * duration_s for share in shares]
