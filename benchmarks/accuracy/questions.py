"""Seeded questions with one right answer each, where no data set can be had: skills that careless quantising spoils.

Scores have their uncertainty; a sign test finds whether two models that answered the same questions differ by more than chance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

_SHOTS = 4  # solved examples before each question, so that a base model knows the form of an answer
_NOUNS = "apple river stone candle window garden silver monkey pencil bridge cotton yellow dragon engine island"
_PLACES = (
    "France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Austria:Vienna Poland:Warsaw Greece:Athens "
    "Norway:Oslo Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Ireland:Dublin Hungary:Budapest Japan:Tokyo "
    "China:Beijing Thailand:Bangkok Vietnam:Hanoi Egypt:Cairo Kenya:Nairobi Peru:Lima Chile:Santiago Cuba:Havana "
    "Canada:Ottawa Russia:Moscow Turkey:Ankara Iran:Tehran Iraq:Baghdad Nepal:Kathmandu Belgium:Brussels"
)
_WORDS = _NOUNS.split()
_CAPITALS = dict(pair.split(":") for pair in _PLACES.split())
_Z = 1.96  # 95 %


@dataclass(frozen=True)
class EvalQuestion:
    """`prompt` ends where the answer begins."""

    family: str
    prompt: str
    answer: str


def questions(count: int, seed: int) -> list[EvalQuestion]:
    """The questions of a seed; families take turns."""
    random = Random(seed)  # noqa: S311 - not for secrets
    families = list(_FAMILIES)
    return [_question(families[number % len(families)], random) for number in range(count)]


def is_right(question: EvalQuestion, text: str) -> bool:
    """Whether the first line of a text is the answer, whatever its case and full stop."""
    lines = text.strip().splitlines()
    return bool(lines) and lines[0].strip().rstrip(".").casefold() == question.answer.casefold()


@dataclass(frozen=True)
class Score:
    """`low` and `high` bound the share 95 % of the time (Wilson's interval)."""

    right: int
    asked: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.right / self.asked


def score(right: int, asked: int) -> Score:
    """The score of `right` answers to `asked` questions, at least 1."""
    share, spread = right / asked, _Z**2 / asked
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / asked + spread / (4 * asked))
    return Score(right, asked, max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True)
class Difference:
    """Questions that only one of the two answered right; `p` is the chance of so uneven a split between equals."""

    only_first: int
    only_second: int
    p: float


def difference(first: list[bool], second: list[bool]) -> Difference:
    """An exact sign test on the questions where the two differ."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    total, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(total, count) for count in range(fewer + 1)) / 2**total
    return Difference(only_first, only_second, min(1.0, 2 * tail))


def _question(family: str, random: Random) -> EvalQuestion:
    make = _FAMILIES[family]
    asked, answer = make(random)
    shots: dict[str, str] = {}
    while len(shots) < _SHOTS:
        shot, solved = make(random)
        if shot != asked:
            shots[shot] = solved
    lines = [f"Q: {shot}\nA: {solved}\n\n" for shot, solved in shots.items()]
    return EvalQuestion(family, f"{''.join(lines)}Q: {asked}\nA:", answer)


def _addition(random: Random) -> tuple[str, str]:
    first, second = random.randint(10, 499), random.randint(10, 499)
    return f"What is {first} + {second}?", str(first + second)


def _sequence(random: Random) -> tuple[str, str]:
    start, step = random.randint(1, 60), random.randint(2, 12)
    shown = ", ".join(str(start + step * number) for number in range(4))
    return f"Which number comes next: {shown}?", str(start + 4 * step)


def _copying(random: Random) -> tuple[str, str]:
    words = " ".join(random.sample(_WORDS, 5))
    return f"Repeat these words: {words}", words


def _largest(random: Random) -> tuple[str, str]:
    numbers = random.sample(range(1, 999), 4)
    return f"Which number is the largest: {', '.join(map(str, numbers))}?", str(max(numbers))


def _capital(random: Random) -> tuple[str, str]:
    country = random.choice(list(_CAPITALS))
    return f"What is the capital of {country}?", _CAPITALS[country]


_FAMILIES: dict[str, Callable[[Random], tuple[str, str]]] = {
    "addition": _addition,
    "sequence": _sequence,
    "copying": _copying,
    "largest": _largest,
    "capital": _capital,
}
