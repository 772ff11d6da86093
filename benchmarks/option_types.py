"""Types of the benchmarks' command-line options: each a `type` for argparse, with the message for a value that is wrong."""

import argparse
import re
from collections.abc import Callable
from math import inf, nan

_MS = {"ms": 1.0, "s": 1000.0}


def number(minimum: float, maximum: float) -> Callable[[str], float]:
    """A number within bounds that are allowed themselves."""

    def parse_number(text: str) -> float:
        value = _float(text)
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {minimum:g} to {maximum:g}")
        return value

    return parse_number


def whole(minimum: int, maximum: int) -> Callable[[str], int]:
    """A whole number within bounds that are allowed themselves."""

    def parse_whole(text: str) -> int:
        if not text.isdecimal() or not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} to {maximum}")
        return int(text)

    return parse_whole


def price(text: str) -> float:
    """A price per chip and hour."""
    value = _float(text)
    if not 0 < value < inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a price above 0")
    return value


def slo(*names: str) -> Callable[[str], dict[str, float]]:
    """An SLO such as `ttft=1s,tpot=50ms`, in any order, as milliseconds by name; a missing one is no limit."""

    def parse_slo(text: str) -> dict[str, float]:
        parsed: dict[str, float] = {}
        for part in text.split(","):
            match = re.fullmatch(rf"({'|'.join(names)})=(\d+(?:\.\d+)?)(ms|s)", part.strip())
            if not match or match[1] in parsed or not float(match[2]):
                example = "in s or ms, such as ttft=1s,tpot=50ms, each at most once"
                raise argparse.ArgumentTypeError(f"{part!r} is not a limit: give {', '.join(names)} {example}")
            parsed[match[1]] = float(match[2]) * _MS[match[3]]
        return parsed

    return parse_slo


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return nan
