"""Runs a model in NumPy, from text to the next token, in code that is written to be read.

    tokenizer      text to ids and back, from the file's metadata; sentencepiece and byte_pair are its two
                   kinds
    weights        the tensors by their role; mapped, never dequantized as a whole
    rope           rotary position embeddings and their scalings
    cache          keys and values of the tokens so far, packed as F16 or Q8_0
    attention      grouped-query attention over the cache
    transformer    the forward pass of Llama, Qwen2 and Qwen3
    sampling       the next token out of the logits
    generation     the loop
    perplexity     how well a model predicts a text, and how far it is from another

spec/inference.md specifies what is computed and what is refused.
"""
