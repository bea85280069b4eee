"""The servers that a command calls: the options that name them, and a client for them."""

import functools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import click

from rap.address import Address
from rap.cli.command import declared_option
from rap.client import Client
from rap.client.cluster import Cluster
from rap.client.config import ClientConfig
from rap.client.pool import NOT_DIALLED
from rap.errors import Unavailable
from rap.options import declared_options
from rap.registry import Endpoint, Resolver, StaticResolver

__all__ = ["DEFAULT_HOST", "DEFAULT_PATIENCE", "Remote", "checked", "refuses", "remote_options"]

T = TypeVar("T")

DEFAULT_HOST = "localhost:9000"

_FAILED_FAST = "wait_for_ready=False"  # in an error of the client
# Options of `Client` and of the command line, to translate messages.
_NAMES = {
    "host_list": "--host",
    "ssl_ca_path": "--ca",
    "ssl_crt_path": "--pin",
    "ssl_client_crt_path": "--cert",
    "ssl_client_key_path": "--key",
    "ssl_crl_path": "--crl",
    "ssl_server_name": "--server-name",
    "ssl_identity": "--identity",
    "token_without_tls": "--token-without-tls",
    "service": "--service",
    "registry": "--registry",
    "registry_key": "--registry-key",
    "token": "--token",
}
_NAMED = re.compile(rf"\b({'|'.join(_NAMES)})\b")
_DECLARED = {each.name: each for each in declared_options(ClientConfig)}
DEFAULT_PATIENCE: float = _DECLARED["connect_timeout"].default
"""Seconds to find a server without ``--timeout``."""


@dataclass(frozen=True, slots=True)
class Remote:
    """The servers that a command calls; each field is the value of an option."""

    host: tuple[str, ...]
    registry: str | None
    service: str | None
    namespace: str | None
    registry_key: str | None
    ca: str | None
    pin: str | None
    cert: str | None
    key: str | None
    crl: str | None
    server_name: str | None
    identity: tuple[str, ...]
    token: str | None
    token_without_tls: bool
    timeout: float | None
    wait: bool = False

    @property
    def registry_url(self) -> str | None:
        """The URL of the registry, its namespace included.

        Raises:
            UsageError: An option is missing, or contradicts another one.
        """
        if self.registry is None:
            if self.namespace is not None:
                raise click.UsageError(f"--namespace {self.namespace} needs --registry")
            if self.service is not None:
                text = f"--service {self.service} needs --registry, which lists its servers"
                raise click.UsageError(text)
            return None
        if self.host:
            raise click.UsageError(f"give --host {self.host[0]} or --registry, not both")
        if self.namespace is None:
            return self.registry
        if "namespace=" in self.registry.partition("?")[2]:
            raise click.UsageError(
                "give --namespace or a --registry URL with a namespace, not both"
            )
        mark = "&" if "?" in self.registry else "?"
        return f"{self.registry}{mark}namespace={self.namespace}"

    @property
    def patience(self) -> float:
        """Seconds to find a server."""
        return DEFAULT_PATIENCE if self.timeout is None else self.timeout

    def with_service(self) -> Self:
        """Return this object, which must name a registry and a service, or neither.

        Raises:
            UsageError: It names only one of them.
        """
        if self.registry_url is not None and self.service is None:
            raise click.UsageError("--registry needs --service: the name of the service")
        return self

    def at(self, address: str) -> Self:
        """Return the same options for one server."""
        return replace(self, host=(address,), registry=None, service=None, namespace=None)

    def client_of(self, address: Address) -> Client:
        """Return a client for one server, which a registry has listed.

        The client refuses an address that options exclude, such as one without TLS, when it
        connects: that is not a mistake in the options.
        """
        listed = StaticResolver([Endpoint(str(address), address)])
        return replace(self, host=(), registry=None, namespace=None).client(registry=listed)

    def client(self, *, registry: Resolver | None = None, **options: Any) -> Client:
        """Return a client that is not connected yet.

        Args:
            registry: Where it finds the service instead of in the registry that is named.
            options: More options of the client.

        Raises:
            UsageError: An option has an invalid value; the message names it.
        """
        return checked(
            Client,
            list(self.host) or None,
            service=self.service,
            registry=registry or self.registry_url,
            registry_key=None if registry is not None else self.registry_key,
            ssl_ca_path=self.ca,
            ssl_crt_path=self.pin,
            ssl_client_crt_path=self.cert,
            ssl_client_key_path=self.key,
            ssl_crl_path=self.crl,
            ssl_server_name=self.server_name,
            ssl_identity=self.identity or None,
            token=self.token,
            token_without_tls=self.token_without_tls,
            connect_timeout=self.patience,
            timeout=self.timeout,
            wait_for_ready=self.wait or None,
            **options,
        )

    @asynccontextmanager
    async def connected(self, **options: Any) -> AsyncIterator[Client]:
        """Return a context manager that connects a client and closes it.

        Raises:
            Unavailable: No server answered in time, or all known servers refused.
        """
        client = self.client(**options)
        try:
            await client.open()
            try:
                await client.cluster.connect(self.wait)
            except Unavailable as error:
                hint = "use --wait to wait for a server"
                raise Unavailable(error.message.replace(_FAILED_FAST, hint)) from None
            yield client
        finally:
            await client.await_close()


def checked(make: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call `make`; in errors, replace the names of options by those of the command line.

    Raises:
        UsageError: An option has an invalid value.
    """
    try:
        return make(*args, **kwargs)
    except (ValueError, ImportError) as exc:
        raise click.UsageError(_NAMED.sub(lambda it: _NAMES[it[1]], str(exc))) from exc


def refuses(cluster: Cluster) -> bool:
    """Whether every known server has been dialled and none is connected."""
    pools = [node.pool for node in cluster.nodes.values()]
    return bool(pools) and all(
        not pool.connections and pool.error != NOT_DIALLED and pool.denial is None for pool in pools
    )


def remote_options(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `Remote` to a command, which gets them as `remote`."""

    @functools.wraps(func)
    def with_remote(**kwargs: Any) -> Any:
        values = {each.name: kwargs.pop(each.name) for each in fields(Remote)}
        return func(remote=Remote(**values), **kwargs)

    command: Callable[..., Any] = with_remote
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _addresses(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        try:
            address = Address.parse(text, option="it")
        except ValueError as exc:
            raise click.BadParameter(str(exc).removeprefix("it: ")) from exc
        if address.scheme != "unix" and not address.port:
            raise click.BadParameter(f"port 0 cannot be dialled, got {text!r}")
    return texts


def _same(flag: str, name: str, **settings: Any) -> Callable[[Any], Any]:
    """Return a command line option that is an option of `Client`, in terms of the command line."""
    text = re.sub(r"`(\w+)`", lambda it: _NAMES.get(it[1], it[1]), _DECLARED[name].option.text)
    return declared_option(flag, ClientConfig, name, text=text, **settings)


_FILE = click.Path(exists=True, dir_okay=False)
_OPTIONS: list[Callable[[Any], Any]] = [
    click.option(
        "--host",
        multiple=True,
        metavar="HOST:PORT",
        callback=_addresses,
        help="Address of a server: host:port, tls://host:port or unix:///path. May be repeated."
        f" [default: {DEFAULT_HOST}]",
    ),
    click.option(
        "--registry", metavar="URL", help="Registry to find servers in, for example redis://host."
    ),
    _same("--service", "service", metavar="NAME"),
    click.option("--namespace", metavar="NAME", help="Namespace in the registry."),
    declared_option(
        "--registry-key",
        ClientConfig,
        "registry_key",
        envvar="RAP_REGISTRY_KEY",
        metavar="TEXT",
        text="Secret with which servers sign their registrations; others are ignored. Other users"
        " of the machine can read a command line: set RAP_REGISTRY_KEY instead.",
    ),
    _same("--ca", "ssl_ca_path", type=_FILE),
    _same("--pin", "ssl_crt_path", type=_FILE),
    _same("--cert", "ssl_client_crt_path", type=_FILE),
    _same("--key", "ssl_client_key_path", type=_FILE),
    _same("--crl", "ssl_crl_path", type=_FILE),
    _same("--server-name", "ssl_server_name", metavar="NAME"),
    _same("--identity", "ssl_identity", metavar="DNS:NAME|URI:NAME", multiple=True),
    declared_option(
        "--token",
        ClientConfig,
        "token",
        envvar="RAP_TOKEN",
        metavar="TEXT",
        text="Token of the client. Other users of the machine can read a command line: set"
        " RAP_TOKEN instead.",
    ),
    _same("--token-without-tls", "token_without_tls", is_flag=True),
    declared_option(
        "--timeout",
        ClientConfig,
        "timeout",
        metavar="SECONDS",
        text="Time limit to find a server, and for each call.",
        default=f"{DEFAULT_PATIENCE:g} to find a server (rap ping: 2, rap top: 1), none for calls",
    ),
    click.option(
        "--wait",
        is_flag=True,
        help="Wait for a server until --timeout. Otherwise the command fails as soon as every"
        " server has refused a connection, or if there is none.",
    ),
]
