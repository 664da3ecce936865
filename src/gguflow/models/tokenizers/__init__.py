"""Tokenizers as the metadata keys that llama.cpp builds them from: one module for each kind."""
