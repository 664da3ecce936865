"""What `tools/bench` measures: one module for each subcommand, with `add_arguments(parser)` and
`run(arguments)`.
"""
