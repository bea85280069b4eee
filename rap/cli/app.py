"""The program ``rap``: its commands under one name."""

import click

from rap import __version__
from rap.cli.demo.command import demo
from rap.cli.demo.replica import demo_replica
from rap.cli.serve import serve

__all__ = ["main", "rap"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="rap", message="rap %(version)s")
def rap() -> None:
    """Call Python functions over the network."""


rap.add_command(serve)
rap.add_command(demo)
rap.add_command(demo_replica)


def main() -> None:
    """Run the command line and exit.

    Every option can be given in the environment: ``RAP_SERVE_LOOP`` for ``rap serve --loop``.
    """
    rap(prog_name="rap", auto_envvar_prefix="RAP")
