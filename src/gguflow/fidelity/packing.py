"""Scales and codes to the bytes of blocks, and to the weights that a reader will decode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguflow.arrays import Bytes, Floats
from gguflow.blocks import nvfp4
from gguflow.fidelity.grids import Grid

Integers = NDArray[np.int32]
Codes = NDArray[Any]
"""uint8, or what arithmetic makes of it."""


@dataclass(frozen=True)
class Scaled:
    """Blocks taken apart: units of `Grid.size` weights, in their order.

    d, dmin: float32[n], numbers that the format can store.
    scales, mins: int32[n, n_sub_blocks]; ones where the format has none.
    codes: uint8[n, size], as the format numbers its levels.
    """

    d: Floats
    dmin: Floats
    scales: Integers
    mins: Integers
    codes: Bytes

    def __getitem__(self, chosen: Any) -> Scaled:
        """Some of the units, by a slice or mask."""
        return Scaled(
            self.d[chosen], self.dmin[chosen], self.scales[chosen], self.mins[chosen], self.codes[chosen]
        )


def decoded(grid: Grid, scaled: Scaled) -> Floats:
    """float32[n, size]: the weights that a reader decodes from the blocks of `pack`, to the bit."""
    steps = scaled.d[:, None] * scaled.scales.astype(np.float32)
    offsets = scaled.dmin[:, None] * scaled.mins.astype(np.float32)
    levels = grid.level_of_code[scaled.codes].reshape(len(scaled.d), grid.n_sub_blocks, grid.sub)
    weights = steps[..., None] * levels
    if grid.offset != "none":
        weights -= offsets[..., None]
    return np.ascontiguousarray(weights.reshape(len(scaled.d), grid.size))


def pack(grid: Grid, scaled: Scaled) -> Bytes:
    """uint8[nbytes]: the blocks, one after the other."""
    block_format = grid.block_format
    per_block = block_format.block_size // grid.size
    out = np.zeros(len(scaled.d) // per_block, block_format.dtype)
    _PACKERS[grid.format](out, grid, scaled)
    return out.view(np.uint8)


Packer = Callable[[NDArray[Any], Grid, Scaled], None]


def _halves(values: Floats) -> NDArray[np.uint16]:
    return values.astype("<f2").view("<u2")


def _nibbles(codes: Codes) -> Codes:
    """uint8[n, 32] -> uint8[n, 16]: weight j in the low half of byte j, weight j + 16 in the high one."""
    return codes[:, :16] & 15 | codes[:, 16:] << 4


def _quarters(codes: Codes) -> Codes:
    """2-bit codes uint8[n, 256] -> uint8[n, 64]: byte 32 h + i holds those of weights 128 h + 32 t + i."""
    parts = codes.reshape(-1, 2, 4, 32)
    packed: Codes = parts[:, :, 0] | parts[:, :, 1] << 2 | parts[:, :, 2] << 4 | parts[:, :, 3] << 6
    return packed.reshape(-1, 64)


def _bit_planes(bits: Codes) -> Codes:
    """0 or 1 uint8[n, 256] -> uint8[n, 32]: bit t of byte i is that of weight 32 t + i."""
    return np.packbits(bits.reshape(-1, 8, 32), axis=1, bitorder="little").reshape(-1, 32)


def _pack_q4_0(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    out["d"] = _halves(scaled.d)
    out["qs"] = _nibbles(scaled.codes)


def _pack_q4_1(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    _pack_q4_0(out, grid, scaled)
    out["m"] = _halves(-scaled.dmin)


def _pack_q5_0(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    _pack_q4_0(out, grid, scaled)
    fifth = np.packbits(scaled.codes >> 4, axis=1, bitorder="little")
    out["qh"] = np.ascontiguousarray(fifth).view("<u4").reshape(-1)


def _pack_q5_1(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    _pack_q5_0(out, grid, scaled)
    out["m"] = _halves(-scaled.dmin)


def _pack_q8_0(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    out["d"] = _halves(scaled.d)
    out["qs"] = (scaled.codes ^ 128).view(np.int8)  # code 128 stands for 0


def _pack_mxfp4(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    """Where d is 0, all codes are those of 0, with the smallest exponent."""
    _, exponent = np.frexp(scaled.d)
    out["e"] = np.where(scaled.d > 0, exponent + 127, 0)
    out["qs"] = _nibbles(scaled.codes)


_HALVES_OF_E4M3 = np.array([nvfp4.half_of_ue4m3(code) for code in range(127)], np.float32)


def _pack_nvfp4(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    out["d"] = np.searchsorted(_HALVES_OF_E4M3, scaled.d).reshape(-1, 4)
    out["qs"] = (scaled.codes[:, :8] | scaled.codes[:, 8:] << 4).reshape(-1, 32)


def _pack_tq2_0(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    out["d"] = _halves(scaled.d)
    out["qs"] = _quarters(scaled.codes)


def _pack_q2_k(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    out["d"], out["dmin"] = _halves(scaled.d), _halves(scaled.dmin)
    out["scales"] = scaled.scales | scaled.mins << 4
    out["qs"] = _quarters(scaled.codes)


def _pack_q3_k(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    scales = scaled.scales + 32
    out["d"] = _halves(scaled.d)
    out["scales"][:, :8] = scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4
    upper = scales.reshape(-1, 4, 4) >> 4
    out["scales"][:, 8:] = upper[:, 0] | upper[:, 1] << 2 | upper[:, 2] << 4 | upper[:, 3] << 6
    out["hmask"] = _bit_planes(scaled.codes >> 2)
    out["qs"] = _quarters(scaled.codes & 3)


def _pack_q4_k(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    scales, mins = scaled.scales, scaled.mins
    out["d"], out["dmin"] = _halves(scaled.d), _halves(scaled.dmin)
    out["scales"][:, :4] = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    out["scales"][:, 4:8] = mins[:, :4] | (mins[:, 4:] >> 4) << 6
    out["scales"][:, 8:] = scales[:, 4:] & 15 | (mins[:, 4:] & 15) << 4
    pairs = (scaled.codes & 15).reshape(-1, 4, 2, 32)
    out["qs"] = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)


def _pack_q5_k(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    _pack_q4_k(out, grid, scaled)
    out["qh"] = _bit_planes(scaled.codes >> 4)


def _pack_q6_k(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    out["d"] = _halves(scaled.d)
    out["scales"] = scaled.scales
    quarters = scaled.codes.reshape(-1, 2, 4, 32)
    low = quarters & 15
    out["ql"] = (low[:, :, :2] | low[:, :, 2:] << 4).reshape(-1, 128)
    out["qh"] = _quarters(scaled.codes >> 4)


def _pack_iq4_xs(out: NDArray[Any], grid: Grid, scaled: Scaled) -> None:
    scales = scaled.scales + 32
    out["d"] = _halves(scaled.d)
    out["scales_h"] = ((scales >> 4) << 2 * np.arange(8)).sum(axis=1)
    out["scales_l"] = scales[:, 0::2] & 15 | (scales[:, 1::2] & 15) << 4
    out["qs"] = _nibbles(scaled.codes.reshape(-1, 32)).reshape(-1, 128)


_PACKERS: dict[str, Packer] = {
    "q4_0": _pack_q4_0,
    "q4_1": _pack_q4_1,
    "q5_0": _pack_q5_0,
    "q5_1": _pack_q5_1,
    "q8_0": _pack_q8_0,
    "iq4_nl": _pack_q4_0,
    "mxfp4": _pack_mxfp4,
    "nvfp4": _pack_nvfp4,
    "tq2_0": _pack_tq2_0,
    "q2_k": _pack_q2_k,
    "q3_k": _pack_q3_k,
    "q4_k": _pack_q4_k,
    "q5_k": _pack_q5_k,
    "q6_k": _pack_q6_k,
    "iq4_xs": _pack_iq4_xs,
}
