"""Names of encodings: each has one shortest form, which means the same. What is no name is in
tests/test_arguments.py.
"""

from __future__ import annotations

import pytest

from gguflow.errors import UnknownFormatError, UsageError
from gguflow.parametric.names import find, name_of

NAMES = {
    "sb:bits=3,block=16": "sb:bits=3,block=16",
    "SB:BITS=3,BLOCK=16": "sb:bits=3,block=16",
    "sb:block=16,range=full,bits=3": "sb:bits=3,block=16",
    "sb:bits=4,per=row,codebook=kmeans": "sb:bits=4,per=row,codebook=kmeans",
    "sb:block=64,quantizer=sign": "sb:block=64,quantizer=sign",
    "sb:bits=4,block=64,super=256,scale_bits=8": "sb:bits=4,block=64,super=256,scale_bits=8",
    "sb:bits=4,block=64,codebook=nf4,super=256,scale_bits=8,nesting=dynamic": "nf4_b64_dq",
    "sb:bits=3,block=32,quantizer=affine,min_bits=8": "affine3_b32",
    "sb:bits=3,block=16,scale=f16": "sb:bits=3,block=16,scale=f16",
    "sb:bits=4,block=64,codebook=log,base=1.5": "sb:bits=4,block=64,codebook=log,base=1.5",
    "sb:bits=3,block=32,percentile=99.90": "sb:bits=3,block=32,percentile=99.9",
    "sb:bits=3,block=32,clip=2.50": "sb:bits=3,block=32,clip=2.5",
    "sb:bits=3,block=32,range=search": "sb:bits=3,block=32,range=search",
    "sb:bits=8,block=128,per=columns": "sb:bits=8,block=128,per=columns",
    "nf4_b64+zstd": "nf4_b64+zstd",
    "sb:bits=3,block=16+zstd": "sb:bits=3,block=16+zstd",
    "sb:bits=3,block=32+outliers=0.50%": "sb:bits=3,block=32+outliers=0.5%",
    "nf4_b64+zstd+outliers=>4.5": "nf4_b64+outliers=>4.5+zstd",
    "nf4_b64+outliers=>1000000000": "nf4_b64+outliers=>1e09",
}


@pytest.mark.parametrize(("name", "shortest"), NAMES.items(), ids=NAMES)
def test_names(name: str, shortest: str) -> None:
    encoding = find(name)
    assert name_of(encoding) == shortest
    assert find(shortest) == encoding


WRONG = {
    "two ranges": ("sb:bits=3,block=32,percentile=99,clip=2", "give only one range"),
    "parameters that contradict each other": ("sb:bits=3,block=32,min_bits=8", "no such encoding"),
    "too precise": ("nf4_b64+outliers=0.00001%", "more precise than parts per million"),
}


@pytest.mark.parametrize(("name", "message"), WRONG.values(), ids=WRONG)
def test_what_has_no_meaning(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(name)


def test_an_unknown_preset() -> None:
    with pytest.raises(UnknownFormatError, match=r"unknown encoding 'nf4_b6'.*did you mean nf4_b64\?"):
        find("nf4_b6")
