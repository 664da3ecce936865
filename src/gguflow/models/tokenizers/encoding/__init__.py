"""Text to tokens as a tokenizer.json defines it: the Hugging Face library's rules, in bounded time."""
