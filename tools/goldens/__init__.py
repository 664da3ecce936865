"""The verbs of `tools/golden`: one module for each, with `add_arguments(parser)` and `run(arguments)`, which
gives the exit code.
"""
