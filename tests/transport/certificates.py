"""Certificates for tests, made afresh: an authority, what it signed, and what others did."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_NOW = datetime.datetime.now(datetime.UTC)
_DAY = datetime.timedelta(days=1)
_LOCAL: list[x509.GeneralName] = [
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
]


class _Pair:
    """A certificate and its key, and the files they are in."""

    def __init__(
        self,
        directory: Path,
        name: str,
        signer: "_Pair | None" = None,
        *,
        names: list[x509.GeneralName] | None = None,
        days: tuple[int, int] = (-1, 30),
        is_authority: bool = False,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = signer or self
        built = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOW + days[0] * _DAY)
            .not_valid_after(_NOW + days[1] * _DAY)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names or _LOCAL), critical=False)
            .sign(issuer.key, hashes.SHA256())
        )
        crt, key = directory / f"{name}.crt", directory / f"{name}.key"
        crt.write_bytes(built.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(self.pem())
        self.crt_path, self.key_path = str(crt), str(key)
        self.serial_number = built.serial_number
        self.not_after = built.not_valid_after_utc.timestamp()

    def pem(self, password: bytes | None = None) -> bytes:
        """Return the key, encrypted if there is a password."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password)
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )


class Certificates:
    """Files of one test run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lists = 0
        self.authority = _Pair(directory, "authority", is_authority=True)
        self.other_authority = _Pair(directory, "other authority", is_authority=True)
        self.server = _Pair(directory, "server", self.authority)
        self.second_server = _Pair(directory, "second server", self.authority)
        self.client = _Pair(directory, "client", self.authority)
        self.stranger = _Pair(directory, "stranger", self.other_authority)
        self.elsewhere = _Pair(
            directory, "elsewhere", self.authority, names=[x509.DNSName("elsewhere.example")]
        )
        self.expired = _Pair(directory, "expired", self.authority, days=(-30, -1))
        self.self_signed = _Pair(directory, "self-signed")
        self.expired_self_signed = _Pair(directory, "expired self-signed", days=(-30, -1))
        encrypted = directory / "encrypted.key"
        encrypted.write_bytes(self.server.pem(b"secret"))
        self.encrypted_key_path = str(encrypted)

    def issue(self, name: str, *names: x509.GeneralName, days: tuple[int, int] = (-1, 30)) -> _Pair:
        """Return a new certificate of the authority with a common name and alternative names.

        Args:
            name: The common name.
            names: Alternative names; those of this machine without any.
            days: From when until when it is valid, relative to now.
        """
        return _Pair(self.directory, name, self.authority, names=list(names), days=days)

    def revoke(self, *pairs: _Pair, days: int = 7) -> str:
        """Return the path of a new revocation list of the authority.

        Args:
            pairs: The certificates that it lists.
            days: Until the next list is due.
        """
        return self.revoke_by(self.authority, *pairs, days=days)

    def revoke_by(self, authority: _Pair, *pairs: _Pair, days: int = 7) -> str:
        """Return the path of a new revocation list of some authority; see `revoke`."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(authority.name)
            .last_update(_NOW - 30 * _DAY)
            .next_update(_NOW + days * _DAY)
        )
        for pair in pairs:
            revoked = x509.RevokedCertificateBuilder().serial_number(pair.serial_number)
            builder = builder.add_revoked_certificate(revoked.revocation_date(_NOW - _DAY).build())
        built = builder.sign(authority.key, hashes.SHA256())
        self._lists += 1
        path = self.directory / f"{self._lists}.crl"
        path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
        return str(path)
