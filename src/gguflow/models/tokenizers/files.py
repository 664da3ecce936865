"""The files that describe a tokenizer, each parsed once, since they can have tens of megabytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguflow.errors import Finding, InvalidError
from gguflow.models.documents import Document

_OTHERS = (
    (("tekken.json",), "tekken.json is Mistral's own format, which is read for Mistral's models only"),
    (("vocab.json", "merges.txt"), "vocab.json and merges.txt alone do not say how text is split"),
    (("vocab.txt",), "vocab.txt is a list for BERT's tokenizer only"),
)
"""Files that describe a tokenizer and are not enough, with the reason."""


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer files of a checkpoint.

    directory: the checkpoint's.
    config: config.json.
    tokenizer: tokenizer.json, or None if it does not exist.
    settings: tokenizer_config.json, or None if it does not exist.
    """

    directory: Path
    config: Document
    tokenizer: Document | None
    settings: Document | None

    @classmethod
    def read(cls, config: Document, directory: Path) -> TokenizerFiles:
        """Read the files. Raises what Document.read raises."""
        return cls(
            directory,
            config,
            Document.read(directory, "tokenizer.json"),
            Document.read(directory, "tokenizer_config.json"),
        )

    @property
    def n_tokens(self) -> int:
        """Rows of the embedding matrix. Raises InvalidError (M-002, M-003)."""
        return self.config.integer("vocab_size")


def no_tokenizer(directory: Path, *accepted: str) -> InvalidError:
    """The error for a checkpoint without a tokenizer that its family can have (M-023).

    directory: the checkpoint's.
    accepted: the files of which one would do.
    """
    others = [
        reason
        for names, reason in _OTHERS
        if not set(names) & set(accepted) and all((directory / name).is_file() for name in names)
    ]
    either = "no" if len(accepted) == 1 else "neither"
    advice = (
        "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) of transformers writes a tokenizer.json"
        if others
        else "copy it from the model's repository"
    )
    missing = f"the tokenizer is missing: there is {either} {' nor '.join(accepted)}"
    message = "; ".join([missing, *others, advice])
    found = ", ".join(name for names, _ in _OTHERS for name in names if (directory / name).is_file())
    return InvalidError(
        directory, Finding("M-023", message, found=found or None, expected=" or ".join(accepted))
    )
