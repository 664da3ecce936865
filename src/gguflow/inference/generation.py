"""The generation loop: read the prompt, then pick a token and read it until something ends the text."""

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
    """Text generated from a prompt. Iterating gives pieces of whole characters; the fields grow meanwhile.

    prompt: text, in which special tokens are recognized.
    n_tokens: the most tokens to generate.
    cache: format of the KV cache, or a function that makes one.
    prompt_tokens: tokens of the prompt.
    tokens: tokens generated so far.
    stopped: "length" (n_tokens are generated), "end" (the model ended its text) or "context" (it is full).
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
        """Raises UsageError for an empty prompt without a first token, or one longer than the context."""
        context = self.transformer.sizes.context_length
        self.prompt_tokens = self.tokenizer.encode(self.prompt, most=context + 1)
        if not self.prompt_tokens:
            raise UsageError(
                "there is nothing to go on with: the prompt is empty, and the model has no first token"
            )
        if len(self.prompt_tokens) > context:
            raise UsageError(f"the prompt has more than the {context} tokens of the model's context")

    def __iter__(self) -> Iterator[str]:
        """Raises what `Transformer.forward` raises, and UsageError if there is no memory for the cache."""
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
