"""gguflow: safetensors to GGUF in one streaming pass, with ggml's bytes."""

__version__ = "0.1.0"
