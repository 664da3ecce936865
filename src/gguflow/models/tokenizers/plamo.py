"""PLaMo 2 and 3: a Unigram vocabulary of their own in tokenizer.jsonl, llama.cpp's tokenizer "plamo2"."""

from __future__ import annotations

from typing import Any

from gguflow.container.metadata import Metadata, boolean, u32
from gguflow.errors import Finding, InvalidError, MalformedError
from gguflow.models.documents import Document, read_text
from gguflow.models.tokenizers.chat_template import chat_template
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.special_tokens import ID_KEYS
from gguflow.models.tokenizers.tokenizer_json import token_text
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary
from gguflow.sources import strict_json

FILE = "tokenizer.jsonl"
PADDING_SCORE = -1000.0
END_OF_TURN = 4
"""The id of <|plamo:op|>, which begins a turn."""

_TYPES = {"UNKNOWN": TokenType.UNKNOWN, "CONTROL": TokenType.CONTROL, "BYTE": TokenType.BYTE}
_KINDS = ("bos", "eos", "pad", "sep", "unk")


def plamo_metadata(files: TokenizerFiles) -> Metadata:
    """The keys in llama.cpp's order, padded to config's vocab_size.

    Raises InvalidError (M-002, M-003, M-023, M-025), MalformedError (M-021), and what strict_json raises.
    """
    vocabulary = _read(files)
    keys = vocabulary.metadata("plamo2", "default", scores=True)
    ids = {text: token for token, text in reversed(list(enumerate(vocabulary.texts)))}
    settings = files.settings or Document(files.directory / "tokenizer_config.json", {})
    for kind in _KINDS:
        text = token_text(settings.values.get(f"{kind}_token"))
        if text is None:
            continue
        if text not in ids:
            raise settings.wrong(f"{kind}_token", text, f"a token of {FILE}")
        keys[ID_KEYS[kind]] = u32(ids[text])
    keys[ID_KEYS["eot"]] = u32(END_OF_TURN)
    keys["tokenizer.ggml.add_space_prefix"] = boolean(False)
    return keys | chat_template(files.directory, files.settings, files.config.applied)


def _read(files: TokenizerFiles) -> Vocabulary:
    """One token to a line: [text, score, type, ...]."""
    content = read_text(files.directory, FILE)
    if content is None:
        raise no_tokenizer(files.directory, FILE)
    file = files.directory / FILE
    vocabulary = Vocabulary([], [], [])
    for number, line in enumerate(content.split("\n")):
        if not line.strip():
            continue
        entry = strict_json.parse(line.encode("utf-8"), file)
        if not _is_token(entry):
            message = f"line {number + 1} is not a list of a token, its score and its type"
            raise MalformedError(file, Finding("M-021", message, found=line[:80]))
        vocabulary.texts.append(entry[0])
        vocabulary.scores.append(float(entry[1]))
        vocabulary.types.append(_type(entry))
    n = len(vocabulary)
    if n > files.n_tokens:
        message = "more tokens than the model has embeddings"
        raise InvalidError(file, Finding("M-025", message, found=n, expected=f"{files.n_tokens} at most"))
    missing = files.n_tokens - n
    vocabulary.texts += [f"[PAD{i + 1}]" for i in range(missing)]
    vocabulary.scores += [PADDING_SCORE] * missing
    vocabulary.types += [TokenType.UNUSED] * missing
    return vocabulary


def _is_token(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) >= 2
        and isinstance(entry[0], str)
        and isinstance(entry[1], int | float)
        and not isinstance(entry[1], bool)
        and abs(entry[1]) < 1e30
        and all(isinstance(kind, str) for kind in entry[2:3])
    )


def _type(entry: list[Any]) -> TokenType:
    """As the line says; tokens with PLaMo's marks are control tokens."""
    kind = entry[2] if len(entry) > 2 else "NORMAL"
    is_mark = entry[0].startswith("<|plamo:") and entry[0].endswith("|>")
    return _TYPES.get(kind, TokenType.CONTROL if is_mark else TokenType.NORMAL)
