"""``rap serve module:server``: run a server until SIGTERM or Ctrl-C, then drain."""

import asyncio
import logging

import click

from rap.cli.loop import LOOPS, loop_factory
from rap.cli.target import load_server
from rap.errors import RapError
from rap.server import Server

__all__ = ["serve"]

_LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.argument("target", metavar="MODULE:SERVER")
@click.option(
    "--loop",
    type=click.Choice(LOOPS),
    default="auto",
    show_default=True,
    help="Event loop; auto is uvloop where it is installed.",
)
@click.option(
    "--log-level",
    type=click.Choice(_LEVELS),
    default="info",
    show_default=True,
    help="Least level of what is logged to standard error.",
)
def serve(target: str, loop: str, log_level: str) -> None:
    """Serve MODULE:SERVER, a Server or a function that makes one.

    SIGTERM and Ctrl-C drain it: open calls finish, then it stops; a second one ends it at once.
    SIGHUP reads its certificates again.
    """
    try:
        factory = loop_factory(loop)
    except ImportError as exc:
        raise click.BadParameter(str(exc), param_hint="'--loop'") from exc
    try:
        server = load_server(target)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="'MODULE:SERVER'") from exc
    # After the import: a module that sets up its own logging is left alone.
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_serve(server))
    except (OSError, RapError) as exc:
        raise click.ClickException(f"{target} cannot be served: {exc}") from exc


async def _serve(server: Server) -> None:
    await server.create_server()
    serving = asyncio.create_task(server.serve_forever(), name="rap serve")
    await asyncio.sleep(0)  # from here on signals drain: who reads the next line may send one
    click.echo(f"rap: listening on {', '.join(map(str, server.addresses))}")
    await serving
    click.echo("rap: stopped")
