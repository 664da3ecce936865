"""RWKV's "world" vocabulary: byte strings, of which the longest that fits is taken at each place."""

from __future__ import annotations

import ast
import re

from gguflow.container.metadata import Metadata, string, u32
from gguflow.errors import Finding, InvalidError, MalformedError
from gguflow.models.documents import read_text
from gguflow.models.tokenizers.chat_template import KEY
from gguflow.models.tokenizers.files import TokenizerFiles, no_tokenizer
from gguflow.models.tokenizers.special_tokens import ID_KEYS, special_metadata
from gguflow.models.tokenizers.vocabulary import TokenType, Vocabulary

FILE = "rwkv_vocab_v20230424.txt"
TEMPLATE = (
    "{#- rwkv-world -#}"
    "{%- set names = {'system': 'System', 'user': 'User', 'assistant': 'Assistant'} -%}"
    "{{- bos_token -}}"
    "{%- for message in messages if message['role'] in names and message['content'] -%}"
    "{%- set text = message['content'] -%}"
    "{%- if message['role'] == 'assistant' -%}{%- set text = text.split('</think>')[-1] -%}{%- endif -%}"
    "{{- names[message['role']] + ': ' + text.strip() + '\\n\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
)
"""The form of chats with which these models were trained, for checkpoints without a template. By the name in
its first line, llama.cpp knows it where it does not evaluate templates.
"""

IDS = {"bos": 0, "eos": 0, "eot": 261}
"""The token before and after a text, and two line feeds, with which a turn ends."""

_LINE = re.compile(r"(\d{1,9}) (b?'[^\n]*'|b?\"[^\n]*\") (\d{1,4})")
_LONGEST_LINE = 4096


def rwkv_world_metadata(files: TokenizerFiles) -> Metadata:
    """The keys in llama.cpp's order, padded to config's vocab_size.

    Raises InvalidError (M-002, M-003, M-023, M-025), MalformedError (M-021).
    """
    vocabulary = _read(files)
    keys = vocabulary.metadata("rwkv", "default")
    del keys["tokenizer.ggml.pre"]
    keys |= special_metadata(files, len(vocabulary))
    for kind, token in IDS.items():
        if token < len(vocabulary):
            keys[ID_KEYS[kind]] = u32(token)
    if KEY not in keys:
        files.config.applied.add("rwkv-template")
        keys[KEY] = string(TEMPLATE)
    return keys


def _read(files: TokenizerFiles) -> Vocabulary:
    content = read_text(files.directory, FILE)
    if content is None:
        raise no_tokenizer(files.directory, FILE)
    file = files.directory / FILE
    lines = content.removesuffix("\n").split("\n")
    if len(lines) + 1 > files.n_tokens:
        message = "more tokens than the model has embeddings"
        most = f"{files.n_tokens - 1} at most"
        raise InvalidError(file, Finding("M-025", message, found=len(lines), expected=most))
    vocabulary = Vocabulary.padding(files.n_tokens)
    vocabulary.put(0, "<s>", TokenType.CONTROL)
    for number, line in enumerate(lines, 1):
        token = _token(line)
        if token is None:
            message = f"line {number} is not an id, a text in quotes and its number of bytes"
            raise MalformedError(file, Finding("M-021", message, found=line[:80]))
        vocabulary.put(number, repr(token)[2:-1], TokenType.NORMAL)
    return vocabulary


def _token(line: str) -> bytes | None:
    """The bytes of a token; None if the line is no entry."""
    match = _LINE.fullmatch(line) if len(line) <= _LONGEST_LINE else None
    if match is None:
        return None
    try:
        literal = ast.literal_eval(match[2])
        token = literal.encode("utf-8") if isinstance(literal, str) else literal
    except (SyntaxError, ValueError):
        return None
    return token if isinstance(token, bytes) and len(token) == int(match[3]) else None
