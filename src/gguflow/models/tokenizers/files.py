"""The files that describe a tokenizer, each parsed once, since they can have tens of megabytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguflow.models.documents import Document


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
