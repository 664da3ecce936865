"""What `tools/fuzz` runs: targets that may raise nothing but the package's own errors, and mutations that
know what a model file is made of.
"""
