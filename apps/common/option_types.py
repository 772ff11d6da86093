"""Types of the commands' options for argparse, each with the message that a wrong value gets."""

import argparse
import math
from urllib.parse import urlsplit


def whole_number(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def seconds(text: str) -> float:
    """A finite number of seconds above 0."""
    number = _number(text)
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


def factor(text: str) -> float:
    """A finite number, 1 or more."""
    number = _number(text)
    if not (number >= 1 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return number


def port(text: str) -> int:
    """A port of this machine that needs no special rights."""
    if not text.isdigit() or not 1024 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port between 1024 and 65535")
    return int(text)


def url(text: str) -> str:
    """An HTTP(S) address with a host."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address such as http://127.0.0.1:8265")
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
