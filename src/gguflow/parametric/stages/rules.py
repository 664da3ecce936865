"""What a validator needs from the parametric family, see `gguflow.validation.payloads.PayloadRules`."""

from __future__ import annotations

from collections.abc import Iterator

from gguflow.arrays import Bytes
from gguflow.errors import Finding
from gguflow.parametric import Encoding, Payload, judging
from gguflow.parametric.descriptor import VERDICTS

__all__ = ["VERDICTS", "open_payload"]


class _Opened:
    """A payload whose descriptor is sound."""

    def __init__(self, payload: Payload) -> None:
        self._payload = payload

    @property
    def encoding(self) -> Encoding:
        return self._payload.encoding

    def judge(self) -> Iterator[Finding]:
        return judging.check(self._payload)


def open_payload(content: Bytes) -> _Opened:
    """The payload in these bytes.

    content: uint8[n].

    Raises a FileError with the rule that the descriptor breaks.
    """
    return _Opened(Payload(content))
