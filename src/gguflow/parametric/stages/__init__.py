"""The connection of the family to the stages of the work: sources, plans, conversions, open files, row
stores, rules.

Each module implements a protocol that is defined where it is used (`gguflow.blocks.families.part` finds the
module):

    payload_source   gguflow.sources: payloads, and tensors in parts (stored, joined_parts), read as weights
    planning         gguflow.conversion.planners: sizes, and codes that can be kept (transcoding)
    engine           gguflow.conversion.payloads: chunks as jobs
    tensors          gguflow.runtime: payloads in open files
    rows             gguflow.rows: rows of row stores
    rules            gguflow.validation.payloads
"""
