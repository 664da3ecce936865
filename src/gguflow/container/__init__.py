"""GGUF v3, the container: its grammar, the header's parser and builder, the writer. Knows of a block format
only its id and sizes.
"""
