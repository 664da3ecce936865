"""More faithful files at the same size: better scales and codes for the block formats of ggml, chosen from
the weights alone (`search`), or from the second moments of a matrix's inputs too (`feedback`). What comes out
are ordinary blocks.

    grids.GRIDS                     the formats, and how their blocks are made of scales and codes
    search.encode                   weights float32[rows, n] -> blocks uint8[rows, row_bytes]
    moments.factor                  second moments float[n, n] -> what all rows of a matrix share
    feedback.quantize_with_moments  weights and moments -> blocks, and what was gained
    lattices.find                   which blocks lie on a grid already, and their scales and codes

Arrays in, arrays out: no files.
"""
