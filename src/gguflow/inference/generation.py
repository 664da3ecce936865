"""The loop: read the prompt, pick a token, read it, until something ends it."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from gguflow.errors import UsageError
from gguflow.inference.sampling import Sampler
from gguflow.inference.tokenizer import Tokenizer
from gguflow.inference.transformer import Transformer


@dataclass
class Generation:
    """A text that a model goes on with. Iterate over it for the pieces, each whole characters; the counts
    below grow meanwhile.

    prompt: text, special tokens in it taken as such. n_tokens: at most so many new ones. cache: the format of
    keys and values.
    prompt_tokens, tokens: those read first, those generated. stopped: "length" (n_tokens are there), "end"
    (the model ended its text) or "context" (it has no room for more).
    """

    transformer: Transformer
    tokenizer: Tokenizer
    prompt: str
    n_tokens: int
    sampler: Sampler = field(default_factory=Sampler)
    cache: str = "f16"
    prompt_tokens: list[int] = field(init=False)
    prompt_seconds: float = field(default=0.0, init=False)
    seconds: float = field(default=0.0, init=False)
    tokens: list[int] = field(default_factory=list, init=False)
    stopped: str = field(default="length", init=False)

    def __post_init__(self) -> None:
        """Raises UsageError: an empty prompt (where the model has no first token), or one beyond the model's
        context.
        """
        self.prompt_tokens = self.tokenizer.encode(self.prompt)
        context = self.transformer.sizes.context_length
        if not self.prompt_tokens:
            raise UsageError(
                "there is nothing to go on with: the prompt is empty, and the model has no first token of its own"
            )
        if len(self.prompt_tokens) > context:
            raise UsageError(
                f"the prompt has {len(self.prompt_tokens)} tokens, the model's context {context}"
            )

    def __iter__(self) -> Iterator[str]:
        """Raises what `Transformer.forward` raises, UsageError where there is no memory for the cache."""
        characters = codecs.getincrementaldecoder("utf-8")("replace")
        for token in self._generated():
            text = characters.decode(self.tokenizer.piece(token))
            if text:
                yield text
        if text := characters.decode(b"", final=True):
            yield text

    def _generated(self) -> Iterator[int]:
        capacity = min(len(self.prompt_tokens) + self.n_tokens, self.transformer.sizes.context_length)
        cache = self.transformer.cache(capacity, self.cache)
        start = time.perf_counter()
        logits = self.transformer.read(self.prompt_tokens, cache)
        read = time.perf_counter()
        self.prompt_seconds = read - start
        while len(self.tokens) < self.n_tokens:
            token = self.sampler.pick(logits)
            if token in self.tokenizer.special.ends:
                self.stopped = "end"
                return
            self.tokens.append(token)
            self.seconds = time.perf_counter() - read
            yield token
            if len(self.tokens) < self.n_tokens:
                if cache.length == cache.capacity:
                    self.stopped = "context"
                    return
                logits = self.transformer.read([token], cache)
