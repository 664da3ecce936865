"""Byte-level BPE's way of writing bytes as letters."""

from __future__ import annotations


def byte_letters() -> dict[int, str]:
    """GPT-2's letter for each byte: itself if printable in Latin-1, or from U+0100 on (a space is Ġ)."""
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {byte: chr(256 + i) for i, byte in enumerate(others)}


LETTERS = byte_letters()


def spelt(content: bytes) -> str:
    """Bytes as letters, one for each."""
    return "".join(map(LETTERS.__getitem__, content))
