"""llama.cpp's own functions (llama.h), out of the xllamacpp wheel through ctypes: the judge of our
tokenizers, logits and perplexities.

Its two structures of parameters are passed by value and grow with every version, so they are opaque here but
for the few fields that are set; the defaults beside those are checked first, and another layout is an error
rather than a crash.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

_N_GPU_LAYERS = 16
_VOCAB_ONLY = 72
"""Bytes in `struct llama_model_params`."""
_N_CTX, _N_BATCH, _N_UBATCH = 0, 4, 8
_N_THREADS = 28
_FLASH_ATTENTION = 52
_TYPES = 104
"""Bytes in `struct llama_context_params`; the last is of type_k, with type_v behind it."""
_RANK = 4
"""In `enum llama_pooling_type`."""
_CACHE_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}


class _Parameters(ctypes.Structure):
    """Larger than either structure: both are passed in memory, of which the callee reads as much as it
    knows.
    """

    _fields_ = (("content", ctypes.c_uint8 * 512),)

    def set(self, offset: int, layout: str, *values: Any) -> None:
        struct.pack_into("<" + layout, self.content, offset, *values)

    def get(self, offset: int, layout: str) -> tuple[Any, ...]:
        return struct.unpack_from("<" + layout, self.content, offset)


class _Batch(ctypes.Structure):
    """`struct llama_batch`."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.c_void_p),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


_ERROR = 4
"""In `enum ggml_log_level`."""
errors: list[str] = []
"""What llama.cpp has complained about, in order."""


def _keep_errors(level: int, text: bytes, user_data: int) -> None:
    """llama.cpp says a page about every model that it loads."""
    if level == _ERROR:
        errors.append(text.decode("utf-8", "replace").strip())


_SILENT = _LogCallback(_keep_errors)


@functools.cache
def library() -> Any:
    """The functions, with their types. Raises ImportError without the wheel, RuntimeError where its
    structures have another layout.
    """
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("this needs the xllamacpp wheel: pip install -e '.[test]'")
    llama = ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / "xllamacpp.abi3.so"))
    pointer, number, flag = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool
    numbers = ctypes.POINTER(ctypes.c_float)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "llama_log_set": (None, [_LogCallback, pointer]),
        "llama_backend_init": (None, []),
        "llama_model_default_params": (_Parameters, []),
        "llama_context_default_params": (_Parameters, []),
        "llama_model_load_from_file": (pointer, [ctypes.c_char_p, _Parameters]),
        "llama_model_free": (None, [pointer]),
        "llama_model_get_vocab": (pointer, [pointer]),
        "llama_vocab_n_tokens": (number, [pointer]),
        "llama_vocab_is_eog": (flag, [pointer, number]),
        "llama_init_from_model": (pointer, [pointer, _Parameters]),
        "llama_free": (None, [pointer]),
        "llama_get_memory": (pointer, [pointer]),
        "llama_memory_clear": (None, [pointer, flag]),
        "llama_tokenize": (number, [pointer, ctypes.c_char_p, number, pointer, number, flag, flag]),
        "llama_token_to_piece": (number, [pointer, number, pointer, number, number, flag]),
        "llama_decode": (number, [pointer, _Batch]),
        "llama_get_logits": (numbers, [pointer]),
        "llama_get_logits_ith": (numbers, [pointer, number]),
        "llama_model_has_encoder": (flag, [pointer]),
        "llama_model_has_decoder": (flag, [pointer]),
        "llama_model_is_diffusion": (flag, [pointer]),
        "llama_model_decoder_start_token": (number, [pointer]),
        "llama_model_n_embd_out": (number, [pointer]),
        "llama_model_n_cls_out": (number, [pointer]),
        "llama_encode": (number, [pointer, _Batch]),
        "llama_pooling_type": (number, [pointer]),
        "llama_set_embeddings": (None, [pointer, flag]),
        "llama_get_embeddings_ith": (numbers, [pointer, number]),
        "llama_get_embeddings_seq": (numbers, [pointer, number]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(llama, name)
        function.restype, function.argtypes = result, arguments
    of_models, of_contexts = llama.llama_model_default_params(), llama.llama_context_default_params()
    known = of_models.get(_N_GPU_LAYERS, "i") == (-1,) and of_models.get(_VOCAB_ONLY, "3?") == (
        False,
        False,
        True,
    )
    known &= (
        of_contexts.get(_FLASH_ATTENTION, "i") == (-1,)
        and of_contexts.get(_N_CTX, "3I") == (512, 2048, 512)
        and of_contexts.get(_N_THREADS, "2i") == (4, 4)
    )
    if not known or of_contexts.get(_TYPES, "2i") != (1, 1):
        raise RuntimeError(
            "this version of xllamacpp has another llama.h than testing/llama_library.py knows"
        )
    llama.llama_log_set(_SILENT, None)
    llama.llama_backend_init()
    return llama


class Llama(AbstractContextManager["Llama"]):
    """A model that llama.cpp has loaded.

    vocab_only: its tokenizer only. cache: the format of keys and values; with f32, attention is computed in
    binary32 throughout.
    """

    def __init__(
        self,
        path: Path,
        *,
        vocab_only: bool = False,
        n_context: int = 512,
        cache: str = "f16",
        threads: int = 1,
    ) -> None:
        self._llama = library()
        self._context = None
        parameters = self._llama.llama_model_default_params()
        parameters.set(_N_GPU_LAYERS, "i", 0)
        parameters.set(_VOCAB_ONLY, "?", vocab_only)
        self._model = self._llama.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise RuntimeError(f"llama.cpp refused {path}: {'; '.join(errors)}")
        self._vocab = self._llama.llama_model_get_vocab(self._model)
        self.n_tokens = int(self._llama.llama_vocab_n_tokens(self._vocab))
        if vocab_only:
            return
        parameters = self._llama.llama_context_default_params()
        parameters.set(_N_CTX, "3I", n_context, n_context, n_context)
        parameters.set(_N_THREADS, "2i", threads, threads)
        parameters.set(_TYPES, "2i", *[_CACHE_TYPES[cache]] * 2)
        if cache == "f32":
            parameters.set(_FLASH_ATTENTION, "i", 0)
        self._context = self._llama.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise RuntimeError(f"llama.cpp made no context for {path}: {'; '.join(errors)}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._context:
            self._llama.llama_free(self._context)
        self._llama.llama_model_free(self._model)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """The ids of a text's tokens."""
        raw = text.encode("utf-8")
        ids = np.empty(2 * len(raw) + 16, np.int32)
        n = self._llama.llama_tokenize(
            self._vocab, raw, len(raw), ids.ctypes.data, ids.size, add_special, parse_special
        )
        if n < 0:
            raise RuntimeError(f"llama.cpp needs room for {-n} tokens")
        return [int(token) for token in ids[:n]]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for."""
        room = ctypes.create_string_buffer(4096)
        n = self._llama.llama_token_to_piece(self._vocab, token, room, len(room), 0, special)
        return room.raw[:n]

    def ends(self) -> set[int]:
        """The tokens that end a generation."""
        return {token for token in range(self.n_tokens) if self._llama.llama_vocab_is_eog(self._vocab, token)}

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32[len(tokens), n_tokens]: what follows each token, the sequence read from its beginning."""
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        self._compute(tokens)
        return self._copied(self._llama.llama_get_logits(self._context), len(tokens), self.n_tokens)

    @property
    def is_generative(self) -> bool:
        """Whether it continues texts, one token after another: it has a decoder, remembers what it has read,
        and does not pool it.
        """
        remembers = bool(self._llama.llama_get_memory(self._context))
        decodes = remembers and self._llama.llama_model_has_decoder(self._model)
        return decodes and self._llama.llama_pooling_type(self._context) in (-1, 0)

    @property
    def is_diffusion(self) -> bool:
        """Whether it predicts all tokens at once."""
        return bool(self._llama.llama_model_is_diffusion(self._model))

    def generate(self, tokens: Sequence[int], n: int) -> tuple[list[int], NDArray[np.float32]]:
        """The n tokens that follow, each the best (of equal ones the first), and float32[n, n_tokens]: the
        logits that they were chosen by. An encoder reads `tokens`, if the model has one.
        """
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), False)
        if self._llama.llama_model_has_encoder(self._model):
            self._compute(tokens, encode=True)
            start = self._llama.llama_model_decoder_start_token(self._model)
            tokens = [max(start, 0)]
        found, rows = [], []
        for _ in range(n):
            self._compute(tokens)
            rows.append(self._copied(self._llama.llama_get_logits_ith(self._context, -1), 1, self.n_tokens))
            tokens = [int(rows[-1].argmax())]
            found += tokens
        return found, np.concatenate(rows)

    def embeddings(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32[1, n_embd] of a sequence, float32[1, n_classes] of a model that ranks, and
        float32[len(tokens), n_embd] of a model that does not pool.
        """
        self._llama.llama_set_embeddings(self._context, True)
        self._compute(tokens, encode=self._llama.llama_model_has_encoder(self._model))
        pooling, width = (
            self._llama.llama_pooling_type(self._context),
            self._llama.llama_model_n_embd_out(self._model),
        )
        if pooling in (-1, 0):
            rows = [self._llama.llama_get_embeddings_ith(self._context, i) for i in range(len(tokens))]
            return np.concatenate([self._copied(row, 1, width) for row in rows])
        if pooling == _RANK:
            width = self._llama.llama_model_n_cls_out(self._model)
        return self._copied(self._llama.llama_get_embeddings_seq(self._context, 0), 1, width)

    def _compute(self, tokens: Sequence[int], *, encode: bool = False) -> None:
        n = len(tokens)
        ids, all_of_them = (ctypes.c_int32 * n)(*tokens), (ctypes.c_int8 * n)(*[1] * n)
        function = self._llama.llama_encode if encode else self._llama.llama_decode
        status = function(self._context, _Batch(n_tokens=n, token=ids, logits=all_of_them))
        if status:
            raise RuntimeError(f"llama_{'encode' if encode else 'decode'} gave {status}")

    def _copied(self, rows: Any, n: int, width: int) -> NDArray[np.float32]:
        if not rows:
            raise RuntimeError("llama.cpp has no numbers where they should be")
        return np.ctypeslib.as_array(rows, (n, width)).copy()
