"""TLS of servers and clients: their files, and the contexts that are made of them.

A context is never changed while it is in use. When the files change, new handshakes get a new one,
which knows no session of the one before and no authority that was withdrawn. Errors name the option
of the file that is wrong.
"""

import logging
import os
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rap.errors import ConnectionClosed, RapError
from rap.foreign import one_line

__all__ = [
    "ClientTls",
    "ServerTls",
    "ServerTrust",
    "check_identities",
    "check_paths",
    "client_context",
    "is_pinned",
    "pinned_certificate",
    "server_context",
]

_SETTLED = 50_000_000  # ns; a file changed so recently may change again in the same clock tick
_MAX_SHOWN, _MAX_NAME = 3, 60  # names of a certificate in an error, and their characters


class ServerTls:
    """The TLS of a server.

    Args:
        crt_path: PEM file with the certificate and its chain, if any.
        key_path: PEM file with its private key.
        ca_path: PEM file with the authorities for client certificates, which are then required.
        crl_path: PEM file with the revocation lists (CRLs) of these authorities.

    Attributes:
        context: The context for new handshakes.
        not_after: When the first certificate of `crt_path` expires, in seconds since the epoch;
            `None` if it is not known.
        next_update: When the first list of `crl_path` expires, likewise.

    Raises:
        ValueError: A file cannot be used; the message names its option.
    """

    context: ssl.SSLContext
    not_after: float | None
    next_update: float | None

    def __init__(
        self,
        crt_path: str,
        key_path: str,
        ca_path: str | None = None,
        crl_path: str | None = None,
    ) -> None:
        self._crt_path = crt_path
        self._key_path = key_path
        self._ca_path = ca_path
        self._crl_path = crl_path
        self.reload()

    def reload(self) -> None:
        """Read all files again, for new handshakes.

        Raises:
            ValueError: A file cannot be used; the context before stays in use.
        """
        from rap.transport import certificate  # only with TLS

        paths = (self._crt_path, self._key_path, self._ca_path, self._crl_path)
        self.context = server_context(*paths)
        self.not_after = certificate.not_after(self._crt_path)
        crl_path = self._crl_path
        self.next_update = None if crl_path is None else certificate.next_update(crl_path)

    def describe(self) -> str:
        """Return what it uses, with the options, and until when the certificate is valid."""
        paths = {
            "ssl_crt_path": self._crt_path,
            "ssl_key_path": self._key_path,
            "ssl_ca_path": self._ca_path,
            "ssl_crl_path": self._crl_path,
        }
        return _described(paths, self.not_after)

    def proves_again(self, ssl_object: ssl.SSLObject | None) -> bool:
        """Return whether a client proved its certificate in this very handshake, if it must.

        In a resumed session, the certificate was checked when the session began, and may be expired
        or revoked since. There are no tickets, but OpenSSL remembers sessions of TLS 1.2, too.
        """
        return self._ca_path is None or ssl_object is None or not ssl_object.session_reused


class ServerTrust(NamedTuple):
    """What a client has for one handshake, and what it expects of the server.

    Args:
        context: The context.
        pinned: The only certificate that the server may present, in DER form; or `None`.
        identities: Patterns of alternative names, of which the certificate must have one; see
            `check_identities`. With none, any name will do.
        server_name: The name that the server must have instead of the host; empty for the host.
    """

    context: ssl.SSLContext
    pinned: bytes | None = None
    identities: Sequence[str] = ()
    server_name: str = ""

    def check(self, ssl_object: ssl.SSLObject | None) -> None:
        """Check the certificate of a server after the handshake, before anything is sent to it.

        Raises:
            RapError: It is not the server that is expected.
        """
        if self.pinned is not None and not is_pinned(ssl_object, self.pinned):
            raise ConnectionClosed("its certificate is not the pinned one")
        if self.identities:
            content = None if ssl_object is None else ssl_object.getpeercert()
            names = [] if content is None else _names_of(content)
            if not any(_matches(name, each) for name in names for each in self.identities):
                raise _wrong_identity(names, self.identities)


class ClientTls:
    """The TLS of a client.

    The files are looked at before each handshake. If they have changed and can be used, they are.

    Args:
        pinned_path: See `client_context`, as for the other paths.
        ca_path: Likewise.
        crt_path: Likewise.
        key_path: Likewise.
        crl_path: Likewise.
        server_name: The name that servers must have instead of the host of their address.
        identities: See `check_identities`.
        log: Logger of the client.

    Attributes:
        options: The options of TLS that are set. With any, every connection needs TLS.
        not_after: When the own certificate expires, in seconds since the epoch; `None` if there is
            none, or it is not known.

    Raises:
        ValueError: An option or a file cannot be used; the message names the option.
    """

    not_after: float | None

    def __init__(
        self,
        *,
        pinned_path: str | None = None,
        ca_path: str | None = None,
        crt_path: str | None = None,
        key_path: str | None = None,
        crl_path: str | None = None,
        server_name: str | None = None,
        identities: str | Sequence[str] | None = None,
        log: logging.Logger,
    ) -> None:
        self._paths = {
            "ssl_crt_path": pinned_path,
            "ssl_ca_path": ca_path,
            "ssl_client_crt_path": crt_path,
            "ssl_client_key_path": key_path,
            "ssl_crl_path": crl_path,
        }
        check_paths(**self._paths)
        if key_path is not None and crt_path is None:
            raise ValueError("ssl_client_key_path needs ssl_client_crt_path")
        if pinned_path is not None and ca_path is not None:
            raise ValueError("give ssl_crt_path (one pinned certificate) or ssl_ca_path, not both")
        if pinned_path is not None and identities is not None:
            raise ValueError("give ssl_crt_path (one pinned certificate) or ssl_identity, not both")
        if crl_path is not None and ca_path is None:
            raise ValueError("ssl_crl_path needs ssl_ca_path: whose certificates it revokes")
        self._server_name = server_name or ""
        self._identities = check_identities(identities)
        self._log = log
        others = {"ssl_server_name": server_name, "ssl_identity": identities}
        self.options = tuple(
            name for name, value in (self._paths | others).items() if value is not None
        )
        self.not_after = None
        self._trust: ServerTrust | None = None  # made on first use if no option asks for it
        self._stats: object = None  # of the files, when they were looked at
        self._contents: object = None
        if self.options:
            self.reload()

    def trust(self) -> ServerTrust:
        """Return what the next handshake needs; look at the files.

        Raises:
            ValueError: The files cannot be used, and never could.
        """
        if self._trust is None:
            self.reload()
        elif self._stats is None or self._stats != self._look():
            self._use_changes()
        assert self._trust is not None
        return self._trust

    def reload(self) -> None:
        """Read all files again, for new handshakes.

        Raises:
            ValueError: A file cannot be used; what was read before stays in use.
        """
        self._stats, self._contents = self._look(), self._read()
        paths = self._paths
        pinned_path, crt_path = paths["ssl_crt_path"], paths["ssl_client_crt_path"]
        context = client_context(
            pinned_path=pinned_path,
            ca_path=paths["ssl_ca_path"],
            crt_path=crt_path,
            key_path=paths["ssl_client_key_path"],
            crl_path=paths["ssl_crl_path"],
            checks_name=not self._identities,
        )
        if self._server_name:
            context.check_hostname = True
        pinned = None if pinned_path is None else pinned_certificate(pinned_path)
        self._trust = ServerTrust(context, pinned, self._identities, self._server_name)
        if crt_path is not None:
            from rap.transport.certificate import not_after  # only with a certificate

            self.not_after = not_after(crt_path)

    def _use_changes(self) -> None:
        stats = self._look()
        contents = self._read()
        self._stats = stats
        if contents == self._contents:
            return
        try:
            self.reload()
        except ValueError as exc:
            self._log.error("the changed TLS files are not used, the old ones are: %s", exc)
        else:
            self.log_reload()

    def log_reload(self) -> None:
        """Log that files were read again."""
        self._log.info("new connections use the reloaded TLS files: %s", self.describe())

    def describe(self) -> str:
        """Return the files, with their options, and until when the own certificate is valid."""
        return _described(self._paths, self.not_after)

    @property
    def _files(self) -> list[str]:
        """The files to look at; without its own authorities, that of the system."""
        files = [path for path in self._paths.values() if path is not None]
        if self._paths["ssl_crt_path"] is None and self._paths["ssl_ca_path"] is None:
            system = ssl.get_default_verify_paths().cafile
            files += [] if system is None else [system]
        return files

    def _look(self) -> object:
        """Return what changes whenever a file does; `None` if one changed too recently to tell."""
        found: list[tuple[int, int, int] | None] = []
        now = time.time_ns()
        for path in self._files:
            try:
                stat = os.stat(path)
            except OSError:
                found.append(None)
                continue
            if 0 <= now - stat.st_mtime_ns < _SETTLED:
                return None
            found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return found

    def _read(self) -> object:
        """Return what differs if a file holds something else."""
        found: list[int | None] = []
        for path in self._files:
            try:
                with open(path, "rb") as file:
                    found.append(hash(file.read()))
            except OSError:
                found.append(None)
        return found


def check_paths(**paths: object) -> None:
    """Check that paths are paths: the empty text of an unset variable must not disable TLS.

    Args:
        paths: Paths by the names of their options; `None`: no file.

    Raises:
        ValueError: A value is neither `None` nor a path; the message names its option.
    """
    for option, path in paths.items():
        if path is not None and not (isinstance(path, str | os.PathLike) and os.fspath(path)):
            raise ValueError(f"{option} must be the path of a PEM file, got {path!r}")


def check_identities(value: object, option: str = "ssl_identity") -> tuple[str, ...]:
    """Return the identities that servers may have: patterns of alternative names.

    Args:
        value: A text, or several: ``DNS:`` or ``URI:`` and a name. ``*`` stands for one or more
            characters, of a DNS name without dots, of a URI without slashes. `None`: none.
        option: Name of the option.

    Raises:
        ValueError: A pattern has another form; the message names the option.
    """
    if value is None:
        return ()
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, Sequence) or isinstance(patterns, bytes) or not patterns:
        raise ValueError(f"{option} must be a pattern or a list of patterns, got {value!r}")
    for each in patterns:
        if not isinstance(each, str) or not re.fullmatch(r"DNS:[^\s:/]+|URI:[^\s:]+:\S+", each):
            text = "must be DNS: and a host name, or URI: and a URI"
            raise ValueError(f"{option} {text}; * stands for one label or segment, got {each!r}")
    return tuple(patterns)


def server_context(
    crt_path: str, key_path: str, ca_path: str | None = None, crl_path: str | None = None
) -> ssl.SSLContext:
    """Return the context of a server, for TLS 1.2 or later.

    It gives no session tickets, so each handshake checks the certificate of the client. No client
    can begin another handshake on the same connection.

    Args:
        crt_path: PEM file with the certificate and its chain, if any.
        key_path: PEM file with its private key.
        ca_path: PEM file with the authorities for client certificates, which are then required;
            `None`: no client certificates.
        crl_path: PEM file with a revocation list (CRL) of each of these authorities; `None`: no
            certificate is looked up.

    Raises:
        ValueError: A file cannot be read or used; the message names the option.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    _load_chain(context, "ssl_crt_path", crt_path, "ssl_key_path", key_path)
    if ca_path is not None:
        _load_authorities(context, "ssl_ca_path", ca_path)
        context.verify_mode = ssl.CERT_REQUIRED
    if crl_path is not None:
        if ca_path is None:
            raise ValueError("ssl_crl_path needs ssl_ca_path: whose certificates it revokes")
        _load_revocations(context, crl_path)
    return context


def client_context(
    *,
    pinned_path: str | None = None,
    ca_path: str | None = None,
    crt_path: str | None = None,
    key_path: str | None = None,
    crl_path: str | None = None,
    checks_name: bool = True,
) -> ssl.SSLContext:
    """Return the context of a client, for TLS 1.2 or later.

    The name of a server is an alternative name of its certificate, never a common name.

    Args:
        pinned_path: PEM file with the only certificate that the server may present. The host name
            is not checked; the caller compares the certificate with `is_pinned`.
        ca_path: PEM file with the authorities that the server's chain must lead to; chain and
            host name are checked. Without both, the authorities of the system are used.
        crt_path: PEM file with the client's own certificate, for mutual TLS.
        key_path: PEM file with its private key.
        crl_path: PEM file with a revocation list (CRL) of each authority of `ca_path`.
        checks_name: Whether the certificate must have the name of the host.

    Raises:
        ValueError: A file cannot be read or used; the message names the option.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False
    context.check_hostname = checks_name
    if pinned_path is not None:
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        _load_authorities(context, "ssl_crt_path", pinned_path)
    elif ca_path is not None:
        _load_authorities(context, "ssl_ca_path", ca_path)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if crt_path is not None:
        _load_chain(
            context, "ssl_client_crt_path", crt_path, "ssl_client_key_path", key_path or crt_path
        )
    if crl_path is not None:
        _load_revocations(context, crl_path)
    return context


def pinned_certificate(path: str) -> bytes:
    """Return the first certificate of a PEM file in DER form.

    Raises:
        ValueError: The file cannot be read or has no certificate.
    """
    from rap.transport.certificate import first_certificate  # only with TLS

    try:
        certificate = first_certificate(path)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate)
        return certificate
    except (OSError, ValueError) as exc:
        raise ValueError(f"ssl_crt_path: cannot use {path!r}: {exc}") from exc


def is_pinned(ssl_object: ssl.SSLObject | None, certificate: bytes) -> bool:
    """Return whether the peer presented exactly this certificate."""
    return ssl_object is not None and ssl_object.getpeercert(binary_form=True) == certificate


def _load_chain(context: ssl.SSLContext, crt: str, crt_path: str, key: str, key_path: str) -> None:
    for option, path in ((crt, crt_path), (key, key_path)):
        if not os.path.isfile(path):
            raise ValueError(f"{option}: no such file {path!r}")
    try:
        context.load_cert_chain(crt_path, key_path, password="")  # do not prompt for one
    except (OSError, ssl.SSLError) as exc:
        raise ValueError(
            f"{crt}={crt_path!r} and {key}={key_path!r} cannot be used together: {exc}"
        ) from exc


def _load_authorities(context: ssl.SSLContext, option: str, path: str) -> None:
    if not os.path.isfile(path):
        raise ValueError(f"{option}: no such file {path!r}")
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as exc:
        raise ValueError(f"{option}: {path!r} holds no usable certificate: {exc}") from exc


def _load_revocations(context: ssl.SSLContext, path: str) -> None:
    """Let a context refuse the certificates that the lists in a file revoke, in the whole chain."""
    if not os.path.isfile(path):
        raise ValueError(f"ssl_crl_path: no such file {path!r}")
    before = context.cert_store_stats()
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as exc:
        raise ValueError(f"ssl_crl_path: {path!r} holds no usable revocation list: {exc}") from exc
    after = context.cert_store_stats()
    if after["crl"] == before["crl"]:
        raise ValueError(f"ssl_crl_path: {path!r} holds no revocation list")
    if after["x509"] != before["x509"]:  # it would be an authority from now on
        raise ValueError(f"ssl_crl_path: {path!r} holds a certificate; it belongs in ssl_ca_path")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _names_of(content: Mapping[str, object]) -> list[str]:
    """Return the alternative names of a certificate, each with its kind: ``DNS:calc.example``."""
    names = content.get("subjectAltName", ())
    assert isinstance(names, tuple)
    return [f"{kind}:{name}" for kind, name in names]


def _matches(name: str, pattern: str) -> bool:
    is_host = pattern.startswith("DNS:")
    parts = [re.escape(part) for part in pattern.split("*")]
    expression = ("[^.:]+" if is_host else "[^/]+").join(parts)
    return re.fullmatch(expression, name, re.IGNORECASE if is_host else 0) is not None


def _wrong_identity(names: Sequence[str], identities: Sequence[str]) -> RapError:
    shown = [one_line(name, _MAX_NAME) for name in names[:_MAX_SHOWN]]
    found = ", ".join(shown) or "no alternative name"
    expected = " or ".join(identities)
    return ConnectionClosed(f"its certificate has {found}, not {expected} (option ssl_identity)")


def _described(paths: Mapping[str, str | None], end: float | None) -> str:
    text = ", ".join(f"{option}={path}" for option, path in paths.items() if path is not None)
    if end is None:
        return text or "the authorities of the system"
    return f"{text}; valid until {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(end))}"
