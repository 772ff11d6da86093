"""Text of the simulated engine: what counts as a token, and which tokens follow a prompt. Equal prompts get equal text."""

import itertools
import random
import re
import zlib
from collections.abc import Iterator, Sequence

_TOKEN = re.compile(r"\s?\w{1,6}|\s?[^\w\s]|\s+")
_TEXT = (
    "a about after all also an and any are as at back be because before between both but by can come could day do each "
    "even far few find first for from get give go good great have here high how if in into is it just keep know large "
    "last let life line little long look make many may mind more most much must need new next no not now of off old on "
    "one only open or other our out over own part place point right same say see side small so some still such take"
)
_WORDS = _TEXT.split()
_SHORTEST, _LONGEST = 24, 320  # tokens of a response that ends by itself


def tokenize(text: str) -> list[str]:
    """Split text into pieces of at most six letters, which join to the text again: about as long as real tokens of English."""
    return _TOKEN.findall(text)


def continuation(prompt: Sequence[str], number: int = 0) -> Iterator[str]:
    """Yield the tokens that follow a prompt until the text ends; `number` selects one of many such texts."""
    source = random.Random(zlib.crc32("".join(prompt).encode()) ^ number)  # noqa: S311 - made-up text
    for place in range(source.randint(_SHORTEST, _LONGEST)):
        word = source.choice(_WORDS)
        yield word.capitalize() if place == 0 else f" {word}"
    yield "."


def endless(prompt: Sequence[str]) -> Iterator[str]:
    """Yield tokens without an end, for `ignore_eos`."""
    for number in itertools.count():
        yield from continuation(prompt, number)
