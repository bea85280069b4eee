"""Read PEM files: their first certificate, and until when certificates and revocation lists hold.

`ssl` tells the dates of a peer's certificate only. So this finds them in DER (X.690, RFC 5280), in
which each value has a tag, a length and its content.
"""

import base64
from calendar import timegm
from collections.abc import Iterator

__all__ = ["first_certificate", "next_update", "not_after"]

_CERTIFICATE, _REVOCATION_LIST = "CERTIFICATE", "X509 CRL"
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x17, 0x18
_TIMES = (_UTC_TIME, _GENERALIZED_TIME)


def first_certificate(path: str) -> bytes:
    """Return the first certificate of a PEM file in DER form.

    Raises:
        ValueError: The file has no certificate.
        OSError: It cannot be read.
    """
    found = next(_blocks(path, _CERTIFICATE), None)
    if found is None:
        raise ValueError("no PEM certificate in it")
    return found


def not_after(path: str) -> float | None:
    """Return when the first of the certificates in a PEM file expires.

    Returns:
        Seconds since the epoch; `None` if it is not known.
    """
    return _first_end(path, _CERTIFICATE)


def next_update(path: str) -> float | None:
    """Return when the first of the revocation lists (CRLs) in a PEM file expires, likewise."""
    return _first_end(path, _REVOCATION_LIST)


def _first_end(path: str, kind: str) -> float | None:
    try:
        ends = [_end_of(der) for der in _blocks(path, kind)]
    except (OSError, ValueError, IndexError):
        return None
    return min((end for end in ends if end is not None), default=None)


def _blocks(path: str, kind: str) -> Iterator[bytes]:
    """Yield what each block of a kind holds.

    Raises:
        ValueError: A block has no valid content.
        OSError: The file cannot be read.
    """
    with open(path, encoding="ascii") as file:
        text = file.read()
    begin, end = f"-----BEGIN {kind}-----", f"-----END {kind}-----"
    start = text.find(begin)
    while start >= 0:
        start += len(begin)
        stop = text.find(end, start)
        if stop < 0:
            return
        yield base64.b64decode("".join(text[start:stop].split()), validate=True)
        start = text.find(begin, stop)


def _end_of(der: bytes) -> float | None:
    """Return the second of the two times at the beginning of a certificate or revocation list.

    Raises:
        ValueError: It is not one.
        IndexError: It breaks off.
    """
    _, signed, _ = _value(der, 0)
    _, content, _ = _value(signed, 0)
    times: list[float] = []
    for tag, value in _values(content):
        if tag in _TIMES:  # of a revocation list
            times.append(_seconds(tag, value))
        elif tag == _SEQUENCE and value and value[0] in _TIMES:  # the validity of a certificate
            times += [_seconds(each, text) for each, text in _values(value)]
        elif times:
            break
    return times[1] if len(times) > 1 else None


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        tag, value, at = _value(data, at)
        yield tag, value


def _value(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Return tag and content of the value at a position, and where the next one begins."""
    tag, size, at = data[at], data[at + 1], at + 2
    if size & 0x80:  # so many bytes have the length
        count = size & 0x7F
        size = int.from_bytes(data[at : at + count], "big")
        at += count
    if at + size > len(data):
        raise ValueError("it breaks off")
    return tag, data[at : at + size], at + size


def _seconds(tag: int, value: bytes) -> float:
    """Return a time in seconds since the epoch (RFC 5280, sections 4.1.2.5.1 and 4.1.2.5.2)."""
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "5" else "20") + text
    if len(text) != 15 or text[-1] != "Z" or not text[:-1].isdigit():
        raise ValueError(f"no time: {text!r}")
    parts = [int(text[:4]), *(int(text[at : at + 2]) for at in range(4, 14, 2))]
    return float(timegm((*parts, 0, 0, 0)))
