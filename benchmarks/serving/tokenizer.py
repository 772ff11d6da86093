"""The model's own tokenizer, of the server or a file, and words that it makes one token each, wherever they stand."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from apps.common.errors import OperationError, UserError

_TEXT = (
    "able acid also area army away baby back ball band bank base bath bear beat beer bell belt best bird blow blue board boat "
    "body bone book born boss both bowl box boy bread break brown bus busy cake call camp card care case cash cat cause "
    "cell chain chair chance change chart check chief child city claim class clean clear clock close cloud coal coast coat "
    "code cold come cook cool copy core corn cost count court cover crew crop cross cup dark data date day dead deal "
    "deep desk dog door down draw dream dress drink drive drop dry duck dust each early earth east easy edge egg else end "
    "even event every eye face fact fair fall far farm fast fear feed feel feet few field fight file fill film find fine fire "
    "first fish five flat floor flow food foot force form four free fresh friend front fruit full fun game garden gas gate "
    "girl give glass goal gold good grass great green grey ground group grow guard guess hair half hall hand happy hard hat "
    "head heart heat heavy help hero high hill hold hole home hope horse hot hour house ice idea inch iron item join judge "
    "jump keep key kind king kite knee lady lake land large last late laugh law lead leaf left leg less level life light"
)


@dataclass(frozen=True)
class Tokenizer:
    """Counts the tokens of a text."""

    source: str
    """Where it comes from, for the result."""
    count: Callable[[str], int]


def tokenizer_for(url: str, model: str, headers: dict[str, str], path: str | None) -> Tokenizer:
    """The tokenizer file if one is given, else the server's /tokenize (vLLM's servers have it), whose `count` raises
    `OperationError` where the server is gone. Raises `UserError` if the server has none, so that a file is needed.
    """
    if path:
        return file_tokenizer(path)
    http = httpx.Client(base_url=url, headers=headers, timeout=30)

    def count(text: str) -> int:
        try:
            response = http.post("/tokenize", json={"model": model, "prompt": text, "add_special_tokens": False})
            return int(response.raise_for_status().json()["count"])
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise OperationError(f"{http.base_url}/tokenize: {error or type(error).__name__}") from error

    try:
        count("water")
    except OperationError as error:
        raise UserError(f"{error}: give the model's tokenizer with --tokenizer DIRECTORY") from error
    return Tokenizer("the server's /tokenize", count)


def file_tokenizer(path: str) -> Tokenizer:
    """A tokenizer.json or the one in a directory. Raises `UserError` if there is none."""
    from tokenizers import Tokenizer as Loaded

    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"--tokenizer {path}: no tokenizer.json there; give a model's directory or the file")
    loaded = Loaded.from_file(str(file))
    return Tokenizer(str(file), lambda text: len(loaded.encode(text, add_special_tokens=False).ids))


def single_token_words(tokenizer: Tokenizer) -> list[str]:
    """Words that add one token each after a blank. Raises `UserError` if the tokenizer has too few of them."""
    words = _TEXT.split()
    if tokenizer.count(" ".join(words)) == len(words):
        return words
    kept = [word for word in words if tokenizer.count(f"water {word} water") == 3]
    if len(kept) < 64 or tokenizer.count(" ".join(kept)) != len(kept):
        raise UserError(
            f"{tokenizer.source}: only {len(kept)} of {len(words)} common English words are one token: use --dataset"
        )
    return kept
