"""What `tools/compare` compares: one module for each subcommand, with `add_arguments(parser)` and
`run(arguments)`, which gives the exit code. A module here is found by being here.
"""
