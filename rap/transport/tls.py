"""TLS contexts for servers and clients. Errors name the option of the file that is wrong."""

import os
import ssl

__all__ = ["check_paths", "client_context", "is_pinned", "pinned_certificate", "server_context"]


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


def server_context(crt_path: str, key_path: str, ca_path: str | None = None) -> ssl.SSLContext:
    """Return the context of a server, for TLS 1.2 or later.

    Args:
        crt_path: PEM file with the certificate and its chain, if any.
        key_path: PEM file with its private key.
        ca_path: PEM file with the authorities for client certificates, which are then required;
            `None`: no client certificates.

    Raises:
        ValueError: A file cannot be read or used; the message names the option.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_chain(context, "ssl_crt_path", crt_path, "ssl_key_path", key_path)
    if ca_path is not None:
        _load_authorities(context, "ssl_ca_path", ca_path)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    *,
    pinned_path: str | None = None,
    ca_path: str | None = None,
    crt_path: str | None = None,
    key_path: str | None = None,
) -> ssl.SSLContext:
    """Return the context of a client, for TLS 1.2 or later.

    Args:
        pinned_path: PEM file with the only certificate that the server may present. The host name
            is not checked; the caller compares the certificate with `is_pinned`.
        ca_path: PEM file with the authorities that the server's chain must lead to; chain and
            host name are checked. Without both, the authorities of the system are used.
        crt_path: PEM file with the client's own certificate, for mutual TLS.
        key_path: PEM file with its private key.

    Raises:
        ValueError: A file cannot be read or used; the message names the option.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
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
    return context


def pinned_certificate(path: str) -> bytes:
    """Return the first certificate of a PEM file in DER form.

    Raises:
        ValueError: The file cannot be read or has no certificate.
    """
    try:
        with open(path, encoding="ascii") as file:
            certificate = ssl.PEM_cert_to_DER_cert(_first_certificate(file.read()))
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate)
        return certificate
    except (OSError, ValueError) as exc:
        raise ValueError(f"ssl_crt_path: cannot use {path!r}: {exc}") from exc


def is_pinned(ssl_object: ssl.SSLObject | None, certificate: bytes) -> bool:
    """Return whether the peer presented exactly this certificate."""
    return ssl_object is not None and ssl_object.getpeercert(binary_form=True) == certificate


def _first_certificate(text: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    start = text.find(begin)
    stop = text.find(end, start)
    if start < 0 or stop < 0:
        raise ValueError("no PEM certificate in it")
    return text[start : stop + len(end)] + "\n"


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
