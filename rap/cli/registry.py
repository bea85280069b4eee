"""Reads from the registry that ``--registry`` names."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Self

import click

from rap.cli.command import Failed
from rap.cli.remote import Remote, checked
from rap.errors import RegistryError
from rap.foreign import one_line
from rap.registry import Endpoint, check_name, registry_from_url
from rap.registry.base import LoadReport, check_registry_key, place_of
from rap.registry.signature import SignedResolver

__all__ = ["RegistryReader"]


class RegistryReader:
    """A connection to a registry, for ``async with``.

    Args:
        remote: Names the registry, and a service if the methods are to read one.

    Raises:
        UsageError: The URL does not name a registry.
    """

    def __init__(self, remote: Remote) -> None:
        url = remote.registry_url
        if url is None:
            raise click.UsageError("give --registry")
        if remote.service is not None:
            checked(check_name, "service", remote.service)
        self._scheme = url.partition("://")[0]
        self._registry: Any = checked(registry_from_url, url)
        self._listed: Any = self._registry
        if remote.registry_key is not None:
            key = check_registry_key(remote.registry_key)
            self._listed = checked(SignedResolver, self._registry, key)
        self._service = remote.service
        self._patience = remote.patience

    async def services(self) -> list[str]:
        """Return the names of all services.

        Raises:
            Failed: The registry keeps no list of services, or does not answer.
        """
        ask = getattr(self._registry, "services", None)
        if ask is None:
            raise Failed(f"a registry {self._scheme}:// keeps no list of services; give --service")
        return list(await self._answer(ask()))

    async def instances(self) -> list[Endpoint]:
        """Return the instances of the service, sorted by their addresses.

        Raises:
            Failed: The registry does not answer.
        """

        async def first() -> list[Endpoint]:
            async with aclosing(self.watch()) as sets:
                return await anext(sets)

        found: list[Endpoint] = await self._answer(first())
        return found

    async def none_found(self) -> str:
        """Return a message for a service without instances; it names the other services."""
        text = f"the registry lists no instance of the service {self._service}"
        try:
            names = await self.services()
        except Failed:
            return text
        known = one_line(", ".join(names))
        if not known:
            place = place_of(self._listed)
            known = "no service" + (f" ({place})" if place else "") + "; start a server with it"
        return f"{text}; it lists {known}"

    async def watch(self) -> AsyncGenerator[list[Endpoint], None]:
        """Yield the instances of the service, sorted, now and after each change."""
        async with aclosing(self._listed.watch(self._service)) as snapshots:
            async for snapshot in snapshots:
                yield sorted(snapshot.values(), key=lambda each: each.id)

    async def loads(self) -> Mapping[str, LoadReport]:
        """Return the last load report of each instance, if the registry keeps reports."""
        ask = getattr(self._registry, "loads", None)
        return {} if ask is None else await self._answer(ask(self._service))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._registry.aclose()

    async def _answer(self, asked: Any) -> Any:
        try:
            async with asyncio.timeout(self._patience):
                return await asked
        except TimeoutError:
            text = f"the registry did not answer in {self._patience:g} s; see --registry, --timeout"
            raise Failed(text) from None
        except RegistryError as exc:
            raise Failed(f"the registry does not answer: {exc}") from exc
