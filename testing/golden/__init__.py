"""Golden files: tiny checkpoints of every class, and what llama.cpp's converter makes of them.

A *recipe* says what a checkpoint holds (recipes.py); its numbers follow from the names of its tensors
(contents.py), its tokenizer from a few words (tokenizers.py), so it is written anywhere, with NumPy alone
(checkpoint.py). A *record* is what the peer wrote for it, in each of three number types (records.py). Both
are made by tools/golden, kept in fixtures/golden.zip (packed.py) and held against gguflow by tests.

What the peer's environment runs too imports no gguflow: all but conversion.py and answers.py.
"""
