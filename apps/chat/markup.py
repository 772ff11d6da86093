r"""Text as the page shows it, Markdown with formulas: nothing in it is taken for HTML, and a formula keeps its form.

Gradio's page drops tags that it does not know, and with them words such as `<this>`. A word joiner after `<`, invisible and
taken out again where the text is copied or edited, makes it a plain character.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator

_JOINER = "\N{WORD JOINER}"
_FENCE = re.compile(
    r"^[ ]{0,3}(?P<fence>`{3,}|~{3,}).*?(?:^[ ]{0,3}(?P=fence)[`~]*[ \t]*$|\Z)",  # open to the end while it streams
    re.DOTALL | re.MULTILINE,
)
_TICKS = re.compile(r"`+")
_OPENING = re.compile(r"^[ ]{0,3}(?:`{3,}|~{3,})|`+", re.MULTILINE)
_TAG = re.compile(r"<(?=[a-z/!?])(?!https?://)", re.IGNORECASE)
_FORMULA = re.compile(r"(?<![\\$\w])\$(?![\s$])((?:\\.|[^$\\\n])+?)(?<!\s)\$(?![\d$])")
"""Between single dollars as Pandoc has it: no blank inside them and no digit behind, so that $5 and $6 stay prices."""


def as_shown(text: str) -> str:
    r"""The Markdown to show for a text; `$x$` outside of code becomes `\(x\)`, which the page draws."""
    shown, start = [], 0
    for begin, end in _code(text):
        shown += [_prose(text[start:begin]), text[begin:end]]
        start = end
    return "".join([*shown, _prose(text[start:])])


def _code(text: str) -> Iterator[tuple[int, int]]:
    """Where code begins and ends: blocks within fences, and what is between two runs of as many backticks.

    Each part of a text is looked at once: visitors write texts too, and this runs while others wait.
    """
    runs: dict[int, list[int]] = defaultdict(list)
    for run in _TICKS.finditer(text):
        runs[len(run[0])].append(run.start())
    position = 0
    while opening := _OPENING.search(text, position):
        begin, position = opening.span()
        if fence := _FENCE.match(text, begin):
            position = fence.end()
        elif (after := bisect_right(same := runs[position - begin], begin)) < len(same):
            position += same[after] - begin
        else:
            continue
        yield begin, position


def as_written(shown: str) -> str:
    """What a visitor has made of a shown text, without what was put into it."""
    return shown.replace(_JOINER, "")


def _prose(text: str) -> str:
    return _TAG.sub("<" + _JOINER, _FORMULA.sub(r"\\(\1\\)", text))
