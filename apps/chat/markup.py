r"""Text as the page shows it, Markdown with formulas: nothing in it is taken for HTML, and a formula keeps its form.

Gradio's page drops tags that it does not know, and with them words such as `<this>`. A word joiner after `<`, invisible and
taken out again where the text is copied or edited, makes it a plain character.
"""

import re

_JOINER = "\N{WORD JOINER}"
_CODE = re.compile(
    r"^[ ]{0,3}(?P<fence>`{3,}|~{3,}).*?(?:^[ ]{0,3}(?P=fence)[`~]*[ \t]*$|\Z)"  # open to the end while it streams
    r"|(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)",
    re.DOTALL | re.MULTILINE,
)
_TAG = re.compile(r"<(?=[a-z/!?])(?!https?://)", re.IGNORECASE)
_FORMULA = re.compile(r"(?<![\\$\w])\$(?![\s$])((?:\\.|[^$\\\n])+?)(?<!\s)\$(?![\d$])")
"""Between single dollars as Pandoc has it: no blank inside them and no digit behind, so that $5 and $6 stay prices."""


def as_shown(text: str) -> str:
    r"""The Markdown to show for a text; `$x$` outside of code becomes `\(x\)`, which the page draws."""
    shown, start = [], 0
    for code in _CODE.finditer(text):
        shown += [_prose(text[start : code.start()]), code[0]]
        start = code.end()
    return "".join([*shown, _prose(text[start:])])


def as_written(shown: str) -> str:
    """What a visitor has made of a shown text, without what was put into it."""
    return shown.replace(_JOINER, "")


def _prose(text: str) -> str:
    return _TAG.sub("<" + _JOINER, _FORMULA.sub(r"\\(\1\\)", text))
