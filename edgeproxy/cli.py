"""The command line: parse, call, exit code.

Rule: whatever a command needs is imported inside it, so that `--help` and `version` answer at once.
Exit codes: 0 all well; 1 the configuration is wrong, or what was asked failed; 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from edgeproxy import __version__
from edgeproxy.cli_credentials import api_key, password
from edgeproxy.errors import ConfigError, RequestError

if TYPE_CHECKING:
    import httpx

    from edgeproxy.config import Config

ADMIN = "http://127.0.0.1:9900"
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_CONFIG = click.option(
    "--config", "config", type=_FILE, required=True, envvar="EDGEPROXY_CONFIG", show_envvar=True,
    metavar="FILE", help="The YAML file.",
)  # fmt: skip


class _Commands(click.Group):
    """The group, in the order of writing; a wrong configuration is an answer, not a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            click.echo(str(error), err=True)
            sys.exit(1)


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
      edgeproxy run --config edge.yaml        serve
      edgeproxy explain GET https://example.com/ --config edge.yaml --from 203.0.113.7

    \b
    Exit codes: 0 all well; 1 wrong configuration, or what was asked failed; 2 wrong usage.
    """


@main.command()
@_CONFIG
def run(config: Path) -> None:
    """Serve, with as many workers as the configuration says.

    \b
    SIGTERM or Ctrl-C   finish what is in flight, then stop; a second one stops at once
    SIGHUP              read the configuration again; a wrong one is refused, the running one stays,
                        and the log names the changes that have to wait for a restart
    SIGUSR1             open the access log again, after it was rotated

    \b
    Example:
      edgeproxy run --config /etc/edgeproxy/edge.yaml
      kill -HUP PID

    Health, metrics, purge and explain are at admin.listen, http://127.0.0.1:9900 unless it says otherwise.
    """
    from edgeproxy.server import supervisor

    sys.exit(supervisor.run(config))


@main.command()
@click.argument("file", type=_FILE, required=False)
@click.option(
    "--config",
    "config",
    type=_FILE,
    envvar="EDGEPROXY_CONFIG",
    metavar="FILE",
    show_envvar=True,
    help="The same, as an option.",
)
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
    path = file or config
    if path is None:
        raise click.UsageError("Name the file: edgeproxy check edge.yaml")
    from edgeproxy.config import load_config

    made = load_config(path)
    if not alone:
        from edgeproxy.rehearsal import rehearse

        rehearse(made)
    rows = route_rows(made)
    click.echo(_table(("route", "hosts", "paths", "methods", "policies", "cache", "origin"), rows), nl=False)
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
    """
    from edgeproxy.demo.run import run_demo

    sys.exit(run_demo(workers))


@main.command()
@click.option("--url", help="This URL, in all its variants.")
@click.option("--prefix", help="Every URL that starts like this one.")
@click.option("--host", help="Everything of this host.")
@click.option("--tag", help="Everything that carries this cache tag.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.option("--soft", is_flag=True, help="Make it stale instead: it may be served while it is refreshed.")
@click.option(
    "--admin",
    default=ADMIN,
    envvar="EDGEPROXY_ADMIN",
    show_default=True,
    show_envvar=True,
    help="The admin API.",
)
@click.option(
    "--token", envvar="EDGEPROXY_ADMIN_TOKEN", show_envvar=True, help="Its token; safer in the variable."
)
def purge(
    url: str | None, prefix: str | None, host: str | None, tag: str | None, everything: bool, soft: bool,
    admin: str, token: str | None,
) -> None:  # fmt: skip
    """Make a running edge forget stored responses.

    Name what with exactly one of --url, --prefix, --host, --tag and --all. All workers of the edge hear of
    it; other edges do not. Purged means that the next request waits for the origin; with --soft nobody waits.

    \b
    Examples:
      export EDGEPROXY_ADMIN_TOKEN=...
      edgeproxy purge --url 'https://www.example.com/news?page=1'
      edgeproxy purge --prefix https://www.example.com/images/ --soft
      edgeproxy purge --all --admin http://10.0.0.5:9900
    """
    asked = {"url": url, "prefix": prefix, "host": host, "tag": tag, "all": everything or None}
    named: dict[str, object] = {word: value for word, value in asked.items() if value is not None}
    if len(named) != 1:
        raise click.UsageError("Say what to purge with exactly one of --url --prefix --host --tag --all.")
    if not token:
        raise click.UsageError(
            "Give admin.token of the edge's configuration: --token or EDGEPROXY_ADMIN_TOKEN."
        )
    done = _ask_admin(admin, token, "/purge", {**named, "soft": soft})
    how = "made stale" if done.get("soft") else "purged"
    click.echo(f"{how}: {done.get('purged')} {done.get('value')}".rstrip())
    workers = done.get("workers")
    if isinstance(workers, Mapping):
        count = cast("Mapping[str, object]", workers)
        said = (
            f"{done.get('responses')} responses in {count.get('reached')} of {count.get('running')} workers"
        )
        click.echo(said)


@main.command()
@click.argument("method")
@click.argument("url")
@_CONFIG
@click.option(
    "--from", "client", default="127.0.0.1", show_default=True, metavar="IP", help="Who connects to the edge."
)
@click.option(
    "--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="A field of the request."
)
@click.option(
    "--answer",
    "answers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="A field of an answer: would it be stored?",
)
@click.option("--status", type=click.IntRange(200, 599), help="The status of that answer.  [default: 200]")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def explain(
    method: str, url: str, config: Path, client: str, headers: tuple[str, ...], answers: tuple[str, ...],
    status: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Say what the edge would do with a request, and why, without asking an origin.

    Which route takes it, what each policy says, the cache key, and the origin. Nothing is spent: no
    rate-limit token, no assignment. Limits and cache are those of an edge that has just started.

    \b
    Examples:
      edgeproxy explain GET https://shop.example.com/cart --config edge.yaml --from 203.0.113.7
      edgeproxy explain GET http://localhost:8080/ --config edge.yaml -H 'Cookie: exp=1' --json
      edgeproxy explain GET http://localhost:8080/ --config edge.yaml --answer 'Cache-Control: max-age=60'
    """
    from edgeproxy.config import load_config
    from edgeproxy.explain import explain_config

    fields = [_field(line) for line in headers]
    told = None if not answers and status is None else (status or 200, [_field(line) for line in answers])
    try:
        explanation = explain_config(load_config(config), method, url, client, fields, told)
    except RequestError as error:
        raise click.UsageError(f"{url}: {error.detail}") from None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(json.dumps(explanation.as_dict(), indent=2) if as_json else explanation.as_tree().rstrip("\n"))


@main.group()
def geo() -> None:
    """What the geo databases say."""


@geo.command()
@click.argument("address", metavar="IP")
@click.option(
    "--config", "-c", type=_FILE, envvar="EDGEPROXY_CONFIG", show_envvar=True, help="The configuration file."
)
@click.option("--database", "-d", "databases", multiple=True, type=_FILE, help="Ask this file instead.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def lookup(address: str, config: Path | None, databases: tuple[Path, ...], as_json: bool) -> None:
    """Say where an address is: by the databases of the configuration, or by others.

    \b
    Examples:
      edgeproxy geo lookup 203.0.113.7 --config edge.yaml
      edgeproxy geo lookup 2001:db8::1 --database GeoLite2-City.mmdb --json
    """
    from edgeproxy.config import load_config
    from edgeproxy.geo_lookup import about, as_lines

    if config is None and not databases:
        raise click.UsageError("Name a file with --database, or a configuration with --config.")
    section = None if databases or config is None else load_config(config).geo
    paths = [str(path) for path in databases] if section is None else section.paths
    if not paths:
        raise click.UsageError(f"{config} names no geo.database; name a file with --database.")
    try:
        found = about(address, paths, {} if section is None else section.groups)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else as_lines(found))


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
    """Print the versions of edgeproxy and Python."""
    click.echo(f"edgeproxy {__version__} (Python {sys.version.split()[0]})")


main.add_command(api_key)
main.add_command(password)


def route_rows(config: Config) -> list[tuple[str, ...]]:
    """One row per route: name, hosts, paths, methods, policies in order, cache, origin."""
    rows: list[tuple[str, ...]] = []
    for route in config.routes:
        match = route.match
        policies = " > ".join([_policy(step.word, step.rule) for step in route.policies])
        cache = "off" if route.cache is None else _brief(route.cache) or "as the origin says"
        where = (_brief(match.host), _brief(match.path), _brief(match.methods or "*"))
        rows.append((route.name, *where, policies or "-", cache, _brief(route.origin)))
    return rows


def _policy(word: str, rule: object) -> str:
    """`rate_limit(per_client)`; what header edits and foreign classes hold may be secret."""
    if word == "headers":
        return word
    if word == "use":
        rule = getattr(rule, "path", "")
    return f"{word}({_brief(rule)})"


def _brief(value: object) -> str:
    """A part of the configuration in a few words, as it was written. A float there is a duration."""
    from edgeproxy.config_dump import duration_text
    from edgeproxy.units import Model

    if isinstance(value, Model):
        return _brief(value.model_dump(exclude_unset=True))
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return " ".join([f"{key}={_brief(item)}" for key, item in items])
    if isinstance(value, list | tuple | set | frozenset):
        return "|".join([_brief(item) for item in cast("Iterable[object]", value)])
    return duration_text(value) if isinstance(value, float) else str(value)


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns lined up under their titles."""
    lines = [tuple(title.upper() for title in titles), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(["  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines])


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"{line!r} is not a header; write it like 'Accept: text/html'.")
    return name.strip(), value.strip()


def _ask_admin(admin: str, token: str, path: str, document: Mapping[str, object]) -> dict[str, object]:
    """POST to the admin API. Exits with 1 and a sentence when it cannot be reached or refuses."""
    import httpx

    try:
        # A proxy of the environment must not see the token.
        with httpx.Client(base_url=admin, timeout=10.0, trust_env=False) as client:
            answer = client.post(path, json=document, headers={"Authorization": f"Bearer {token}"})
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        raise click.ClickException(
            f"No admin API at {admin} ({error}). Is the edge running, with admin.listen at that address?"
        ) from None
    body = _json_of(answer)
    if answer.status_code != 200:
        raise click.ClickException(
            f"{admin} answered {answer.status_code}: {body.get('detail', 'no reason given')}"
        )
    return body


def _json_of(answer: httpx.Response) -> dict[str, object]:
    try:
        body: object = answer.json()
    except ValueError:
        return {}
    return cast("dict[str, object]", body) if isinstance(body, dict) else {}
