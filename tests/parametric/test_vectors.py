"""Golden vectors of the family: payloads written by tools/make_fixtures, and what bitsandbytes makes of the
same weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gguflow
from gguflow.parametric import Encoder, Payload, find, joined

DIRECTORY = Path(__file__).resolve().parents[2] / "fixtures" / "parametric"
VECTORS = json.loads((DIRECTORY / "vectors.json").read_text())
PEER = json.loads((DIRECTORY / "bitsandbytes.json").read_text())["tensors"]


def array(text: str, dtype: str = "<f4") -> NDArray[Any]:
    return np.frombuffer(bytes.fromhex(text), dtype)


@pytest.mark.parametrize("vector", [pytest.param(v, id=f"{v['encoding']} {v['shape']}") for v in VECTORS])
def test_golden_vectors(vector: dict[str, Any]) -> None:
    x = array(vector["weights"]).reshape(vector["shape"])
    payload = gguflow.quantize(x, vector["encoding"])
    assert payload.tobytes().hex() == vector["payload"]
    assert (
        gguflow.dequantize(array(vector["payload"], "u1"), "auto")
        == array(vector["decoded"]).reshape(x.shape)
    ).all()


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("tensor", [pytest.param(t, id=t["name"]) for t in PEER])
def test_codes_and_scales_are_those_of_bitsandbytes(tensor: dict[str, Any], kind: str) -> None:
    x = array(tensor["weights"]).reshape(tensor["shape"])
    payload = Payload(gguflow.quantize(x, f"{kind}_b64"))
    assert payload.n_chunks == 1
    sections = payload.sections(0)
    assert sections["codes"].tobytes().hex() == tensor[kind]["codes"]
    assert sections["scales"].tobytes().hex() == tensor[kind]["absmax"]
    assert (payload.decode_rows().reshape(-1) == array(tensor[kind]["decoded"])).all()


@pytest.mark.parametrize("tensor", [pytest.param(t, id=t["name"]) for t in PEER])
def test_nested_scales_are_those_of_bitsandbytes_given_its_offset(tensor: dict[str, Any]) -> None:
    x = array(tensor["weights"]).reshape(tensor["shape"])
    theirs = tensor["nf4 nested"]
    encoder = Encoder(find("nf4_b64_dq"), x.shape, given={"offset": array(theirs["nested_offset"])})
    payload = Payload(joined(encoder, [encoder.encode_chunk(0, x)]))
    sections = payload.sections(0)
    assert sections["codes"].tobytes().hex() == theirs["codes"]
    assert sections["scales"].tobytes().hex() == theirs["absmax"]
    assert sections["meta"].tobytes().hex() == theirs["nested_absmax"]
    assert (payload.decode_rows().reshape(-1) == array(theirs["decoded"])).all()
    own = Payload(gguflow.quantize(x, "nf4_b64_dq")).tables["offset"][0]
    assert own == pytest.approx(array(theirs["nested_offset"])[0], rel=1e-6)
