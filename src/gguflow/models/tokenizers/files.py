"""The files that a tokenizer is described in, each parsed once: they can have tens of megabytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguflow.models.documents import Document


@dataclass(frozen=True)
class TokenizerFiles:
    """What lies in a checkpoint's directory.

    config: config.json. tokenizer: tokenizer.json, None where there is none. settings: tokenizer_config.json,
    None where there is none.
    """

    directory: Path
    config: Document
    tokenizer: Document | None
    settings: Document | None

    @classmethod
    def read(cls, config: Document, directory: Path) -> TokenizerFiles:
        """Raises what Document.read raises."""
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
