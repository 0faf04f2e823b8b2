"""The command line: parse, call, exit code.

Rule: whatever a command needs is imported inside it, so that `--help` and `version` answer at once.
Exit codes: 0 all well; 1 the configuration is wrong, or what was asked failed; 2 wrong usage.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import click

from edgeproxy import __build__, __version__
from edgeproxy.cli.admin import purge
from edgeproxy.cli.credentials import api_key, password
from edgeproxy.cli.explain import explain, geo
from edgeproxy.cli.options import named_file, takes_file
from edgeproxy.errors import ConfigError


class _Commands(click.Group):
    """The group, in the order of writing; a wrong configuration is an answer, not a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            click.echo(str(error), err=True)
        except OSError as error:
            click.echo(f"Error: {_words_of(error)}", err=True)
        sys.exit(1)


_ELSEWHERE = "The file itself is well formed; what it names cannot be used here. --alone leaves that out."


def _words_of(error: OSError) -> str:
    """What the system said, and of which file."""
    said = error.strerror or str(error)
    return f"{error.filename}: {said}" if error.filename is not None else said


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="edgeproxy")
def main() -> None:
    """An edge server: geo routing, A/B, JWT and rate limits before a shared HTTP cache.

    \b
    First steps:
      edgeproxy demo                          two origins, an edge and a tour, nothing to install
      edgeproxy check edge.yaml               is my configuration right?
      edgeproxy run edge.yaml                 serve
      edgeproxy explain GET https://example.com/ --config edge.yaml --from 203.0.113.7

    \b
    Exit codes: 0 all well; 1 wrong configuration, or what was asked failed; 2 wrong usage.
    """


@main.command()
@takes_file
def run(file: Path | None, config: Path | None) -> None:
    """Serve, with as many workers as the configuration says.

    \b
    SIGTERM or Ctrl-C   finish what is in flight, then stop; a second one stops at once
    SIGHUP              read the configuration again; a wrong one is refused, the running one stays,
                        and the log names the changes that have to wait for a restart
    SIGUSR1             open the access log again, after it was rotated

    \b
    Example:
      edgeproxy run /etc/edgeproxy/edge.yaml
      kill -HUP PID

    Health, metrics, purge and explain are at admin.listen, http://127.0.0.1:9900 unless it says otherwise.
    """
    gc.disable()  # until the workers are forked: nothing that a start makes is garbage
    from edgeproxy.server import supervisor

    sys.exit(supervisor.run(named_file(file, config)))


@main.command()
@takes_file
@click.option("--alone", is_flag=True, help="Do not open the files it names: keys, databases, certificates.")
def check(file: Path | None, config: Path | None, alone: bool) -> None:
    """Say whether a configuration is right, and what its routes do.

    All errors are shown at once, each with its line, its place in the YAML, and what was expected. Then
    everything is built as for a start, without listening and without asking anybody: what passes here, runs.

    \b
    Examples:
      edgeproxy check edge.yaml
      edgeproxy check --alone edge.yaml       on another machine than the one it is for
    """
    path = named_file(file, config)
    from edgeproxy.cli.routes import TITLES, route_rows, table
    from edgeproxy.config import load_config

    made = load_config(path)
    if not alone:
        from edgeproxy.rehearsal import rehearse

        try:
            rehearse(made, folders=True)
        except ConfigError as error:
            raise ConfigError(f"{error}\n{_ELSEWHERE}") from None
    rows = route_rows(made)
    click.echo(table(TITLES, rows), nl=False)
    click.echo(f"{path}: all well, {len(rows)} route{'' if len(rows) == 1 else 's'}")


@main.command()
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Worker processes.",
)
def demo(workers: int) -> None:
    """Try it: an edge before two origins, and a tour of curl lines.

    A token issuer and a small geo database are there too. The edge is on port 8080 and its admin API on 9900,
    or on free ports when those are taken; the tour names them. Needs no network and no configuration.
    Ctrl-C ends it and leaves nothing behind.

    \b
    Example:
      edgeproxy demo --workers 2
    """
    from edgeproxy.demo.run import run_demo

    sys.exit(run_demo(workers))


main.add_command(purge)
main.add_command(explain)
main.add_command(geo)


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    An editor with a YAML language server then completes keys, shows what they mean and marks mistakes; this
    comment at the head of the file tells it where to look.

    \b
    Example:
      edgeproxy schema > edge.schema.json
      # yaml-language-server: $schema=edge.schema.json
    """
    from edgeproxy.config import schema as config_schema

    click.echo(json.dumps(config_schema(), indent=2))


@main.command()
def version() -> None:
    """Print the versions of edgeproxy and Python, and whether the way of a request is compiled.

    \b
    Example:
      edgeproxy version
    """
    click.echo(f"edgeproxy {__version__} (Python {sys.version.split()[0]}, {__build__})")


main.add_command(api_key)
main.add_command(password)
