"""Until when certificates and revocation lists are valid, read from their files."""

import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from rap.transport.certificate import first_certificate, next_update, not_after
from tests.transport.certificates import Certificates

UTC = datetime.UTC
BEGIN = datetime.datetime(1999, 12, 31, 23, 59, 58, tzinfo=UTC)
ENDS = [
    datetime.datetime(2000, 1, 1, tzinfo=UTC),
    datetime.datetime(2026, 2, 28, 12, 30, 59, tzinfo=UTC),
    datetime.datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),  # the last with two digits of the year
    datetime.datetime(2050, 1, 1, tzinfo=UTC),
    datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),  # RFC 5280: without an end
]
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 64)] * 3)
KEYS: dict[str, Any] = {
    "ec": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
}


def certificate(end: datetime.datetime, key: str = "ec", begin: datetime.datetime = BEGIN) -> bytes:
    made = x509.CertificateBuilder(
        NAME, NAME, KEYS[key].public_key(), x509.random_serial_number(), begin, end
    )
    return made.sign(KEYS[key], hashes.SHA256()).public_bytes(Encoding.PEM)


def revocation_list(end: datetime.datetime) -> bytes:
    revoked = x509.RevokedCertificateBuilder(1, BEGIN).build()
    made = x509.CertificateRevocationListBuilder(NAME, BEGIN, end, [], [revoked])
    return made.sign(KEYS["ec"], hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("key", KEYS)
def test_the_end_of_a_certificate_is_known(
    tmp_path: Path, end: datetime.datetime, key: str
) -> None:
    path = tmp_path / "own.crt"
    path.write_bytes(certificate(end, key))
    assert not_after(str(path)) == end.timestamp()


def test_certificates_from_before_1970_are_no_exception(tmp_path: Path) -> None:
    path = tmp_path / "own.crt"
    end = datetime.datetime(1960, 1, 1, tzinfo=UTC)
    path.write_bytes(certificate(end, begin=datetime.datetime(1950, 1, 1, tzinfo=UTC)))
    assert not_after(str(path)) == end.timestamp()


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_revocation_list_is_known(tmp_path: Path, end: datetime.datetime) -> None:
    path = tmp_path / "revoked.crl"
    path.write_bytes(revocation_list(end))
    assert next_update(str(path)) == end.timestamp()
    assert not_after(str(path)) is None


def test_the_first_end_counts(tmp_path: Path, certificates: Certificates) -> None:
    path = tmp_path / "chain.crt"
    path.write_bytes(b"a text\n" + certificate(ENDS[3]) + certificate(ENDS[1]) + b"another")
    assert not_after(str(path)) == ENDS[1].timestamp()
    path.write_bytes(path.read_bytes() + Path(certificates.server.key_path).read_bytes())
    assert not_after(str(path)) == ENDS[1].timestamp()
    assert first_certificate(str(path))[:1] == b"0"


def test_of_what_is_no_certificate_no_end_is_known(tmp_path: Path) -> None:
    path = tmp_path / "own.crt"
    assert not_after(str(path)) is None
    good = certificate(ENDS[1])
    for content in (
        b"",
        b"\xff",
        good[:200],
        good.replace(b"M", b"!"),
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMIQ=\n-----END CERTIFICATE-----\n",
    ):
        path.write_bytes(content)
        assert not_after(str(path)) is None
        assert next_update(str(path)) is None
