"""What options of the commands may be: each a `type` for argparse, with the words that a wrong one gets."""

import argparse
import math
from urllib.parse import urlsplit


def whole_number(text: str) -> int:
    """1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def seconds(text: str) -> float:
    """More than 0, and not for ever."""
    found = _number(text)
    if not (found > 0 and math.isfinite(found)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return found


def factor(text: str) -> float:
    """1 or more."""
    found = _number(text)
    if not (found >= 1 and math.isfinite(found)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return found


def port(text: str) -> int:
    """Of this machine, for a program without special rights."""
    if not text.isdigit() or not 1024 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port between 1024 and 65535")
    return int(text)


def url(text: str) -> str:
    """With a scheme and a host."""
    try:
        found = urlsplit(text)
        right = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        right = False
    if not right:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address such as http://127.0.0.1:8265")
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
