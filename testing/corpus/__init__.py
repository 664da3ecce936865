"""The conformance corpus: small files that keep or break one rule each, with the verdict that a reader owes
them.

`tools/make_fixtures` writes them to fixtures/files.
"""
