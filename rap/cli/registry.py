"""What the registry that a command was given knows."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Self

import click

from rap.cli.command import Failed, one_line
from rap.cli.remote import Remote, checked
from rap.errors import RegistryError
from rap.registry import Endpoint, check_name, registry_from_url
from rap.registry.base import LoadReport

__all__ = ["Directory"]


class Directory:
    """Asks a registry; for ``async with``.

    Args:
        remote: Names the registry, and the service for what is asked of one.

    Raises:
        UsageError: The URL is no registry.
    """

    def __init__(self, remote: Remote) -> None:
        url = remote.registry_url
        if url is None:
            raise click.UsageError("give --registry")
        if remote.service is not None:
            checked(check_name, "service", remote.service)
        self._scheme = url.partition("://")[0]
        self._registry: Any = checked(registry_from_url, url)
        self._service = remote.service
        self._patience = remote.patience

    async def services(self) -> list[str]:
        """Return the names of all services.

        Raises:
            Failed: The registry keeps no list, or does not answer.
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
        """Return what to say of a service that has no instances: which others there are."""
        text = f"the registry lists no instance of the service {self._service}"
        try:
            names = await self.services()
        except Failed:
            return text
        return one_line(f"{text}; it knows {', '.join(names) or 'no service'}")

    async def watch(self) -> AsyncGenerator[list[Endpoint], None]:
        """Yield the instances of the service, sorted, now and after each change."""
        async with aclosing(self._registry.watch(self._service)) as snapshots:
            async for snapshot in snapshots:
                yield sorted(snapshot.values(), key=lambda each: each.id)

    async def loads(self) -> Mapping[str, LoadReport]:
        """Return what instances last said of their load; none where the registry keeps none."""
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
