"""GGUF v3, the container: grammar, parser and builder of headers, output files; formats are ids and sizes."""
