"""When a certificate ends, which `ssl` tells of none but the other side's."""

from __future__ import annotations

import ssl
from datetime import datetime, timezone

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def valid_until_s(pem: str) -> float | None:
    """Unix seconds at which the first certificate in `pem` ends; None where that cannot be told."""
    begin, end = pem.find(_BEGIN), pem.find(_END)
    try:
        return _not_after_s(ssl.PEM_cert_to_DER_cert(pem[begin : end + len(_END)]))
    except (ValueError, IndexError):
        return None


def _not_after_s(der: bytes) -> float:
    """RFC 5280: Certificate { tbs { [version], serial, algorithm, issuer, validity { begin, end }, … }, … }"""
    _, tbs, _ = _element(_inside(der, _SEQUENCE))
    tag, _, rest = _element(tbs)
    before_validity = 3 if tag == _VERSION else 2
    for _ in range(before_validity):
        _, _, rest = _element(rest)
    _, _, after_begin = _element(_inside(rest, _SEQUENCE))
    tag, moment, _ = _element(after_begin)
    return _moment_s(tag, moment.decode("ascii"))


def _moment_s(tag: int, text: str) -> float:
    if tag == _UTC_TIME:
        text = ("20" if int(text[:2]) < 50 else "19") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError(f"tag {tag} is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()


def _inside(der: bytes, wanted: int) -> bytes:
    tag, content, _ = _element(der)
    if tag != wanted:
        raise ValueError(f"tag {tag} where {wanted} belongs")
    return content


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Tag, content, and what follows the first element."""
    tag, length, begin = der[0], der[1], 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(der[2:begin], "big")
    if len(der) < begin + length:
        raise ValueError("it ends too early")
    return tag, der[begin : begin + length], der[begin + length :]
