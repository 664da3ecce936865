"""Recognizes files that are not GGUF files, for hints in messages; no verdict depends on it."""

from __future__ import annotations

LFS_POINTER = b"version https://git-lfs"
"""How the file begins that Git LFS leaves where the content was not fetched."""

_SIGNS: tuple[tuple[bytes, str], ...] = (
    (b"FUGG", "its magic is reversed: a byte-swapped file, which no program reads"),
    (
        b"lmgg",
        "a legacy GGML file of 2023, without a version; convert the model again from its original weights",
    ),
    (b"fmgg", "a legacy GGMF file of 2023; convert the model again from its original weights"),
    (b"tjgg", "a legacy GGJT file of 2023; convert the model again from its original weights"),
    (b"algg", "a legacy GGLA adapter; convert it again from its original weights"),
    (b"GGML", "a legacy GGML file of 2023; convert the model again from its original weights"),
    (b"GGJT", "a legacy GGJT file of 2023; convert the model again from its original weights"),
    (LFS_POINTER, "a Git LFS pointer, not the content: fetch the file itself (git lfs pull)"),
    (b"\x89PNG", "a PNG image"),
    (b"PK\x03\x04", "a ZIP archive (a PyTorch checkpoint is one)"),
    (b"\x1f\x8b", "compressed with gzip: decompress it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: decompress it first"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "a program"),
    (b"{", "JSON: an error message of the server, or an index"),
    (b"<?xml", "XML: an error message of the server"),
)


def looks_like(start: bytes) -> str:
    """A clause that says what a file is ("; this is a web page"), or "", by its first 512 bytes."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"GGUF" in start[1:64]:
        return f"; the magic is at byte {start.index(b'GGUF')}, after something that does not belong there"
    if text[:15].lower().startswith((b"<!doctype", b"<html", b"<head")):
        return "; this is a web page: the download gave an error or a log-in page instead of the model"
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000:
        return "; this is a safetensors file"
    if start and not start.strip(b"\0"):
        return (
            "; its beginning is zeros: the space was reserved and the download or conversion never finished"
        )
    return next((f"; this is {what}" for sign, what in _SIGNS if text.startswith(sign)), "")
