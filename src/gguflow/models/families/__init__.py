"""Families of models, one file each, found by listing this package.

A file declares `ARCHITECTURE`, or `ARCHITECTURES`, a tuple of them. Adding a family is adding a file.
"""
