"""`edgeproxy explain` and `edgeproxy geo`: what would become of a request, what is known of an address."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import click

from edgeproxy.cli.admin import ask_admin, json_of, of_running_edge
from edgeproxy.cli.options import ANY_CONFIG, FILE
from edgeproxy.errors import RequestError


@click.command()
@click.argument("method")
@click.argument("url")
@ANY_CONFIG
@of_running_edge
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
    method: str, url: str, config: Path | None, admin: str, token: str | None, client: str,
    headers: tuple[str, ...], answers: tuple[str, ...], status: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Say what the edge would do with a request, and why.

    Which route takes it, what each policy says, the cache key, and the origin, which is not asked. Nothing
    is spent: no rate-limit token, no assignment. Without --config a running edge is asked, over its admin
    API; it also tells what each of its workers and its machine tier hold, and for how long that is fresh.
    With --config it is an edge of that file that has just started.

    \b
    Examples:
      EDGEPROXY_ADMIN_TOKEN=... edgeproxy explain GET https://shop.example.com/cart
      edgeproxy explain GET https://shop.example.com/cart --config edge.yaml --from 203.0.113.7
      edgeproxy explain GET http://localhost:8080/ --config edge.yaml -H 'Cookie: exp=1' --json
      edgeproxy explain GET http://localhost:8080/ --config edge.yaml --answer 'Cache-Control: max-age=60'
    """
    if not url.startswith(("/", "http://", "https://")):
        raise click.UsageError(f"{url}: write the whole URL, like http://{url}")
    _check_address(client)
    fields = [_field(line) for line in headers]
    told = None if not answers and status is None else (status or 200, [_field(line) for line in answers])
    if config is None or _named("admin"):
        if config is not None and _named("config"):
            raise click.UsageError("Ask a running edge with --admin, or try a file with --config: not both.")
        asked = {"method": method, "url": url, "from": client, "header": list(headers)}
        if status is not None or answers:
            asked |= {"status": status or 200, "answer": list(answers)}
        answer = ask_admin(admin, token, "/explain", asked, "application/json" if as_json else "text/plain")
        click.echo(json.dumps(json_of(answer), indent=2) if as_json else answer.text.rstrip("\n"))
        return
    from edgeproxy.admin.explain import Question
    from edgeproxy.config import load_config
    from edgeproxy.explain import explain_config

    try:
        explanation = explain_config(load_config(config), Question(method, url, client, fields, told))
    except RequestError as error:
        said = f"The edge would answer {url} with {error.status} {error.reason}: {error.detail}"
        raise click.ClickException(said) from None
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    click.echo(json.dumps(explanation.as_dict(), indent=2) if as_json else explanation.as_tree().rstrip("\n"))


@click.group()
def geo() -> None:
    """What the geo databases say.

    \b
    Example:
      edgeproxy geo lookup 203.0.113.7 --config edge.yaml
    """


@geo.command()
@click.argument("address", metavar="IP")
@ANY_CONFIG
@click.option("--database", "-d", "databases", multiple=True, type=FILE, help="Ask this file instead.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def lookup(address: str, config: Path | None, databases: tuple[Path, ...], as_json: bool) -> None:
    """Say where an address is.

    By the databases of the configuration, or by others.

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


def _named(option: str) -> bool:
    """Is it on the command line, rather than in the environment?"""
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.COMMANDLINE


def _check_address(client: str) -> None:
    try:
        ip_address(client)
    except ValueError:
        said = f"--from {client}: expected an IP address, like 203.0.113.7 or 2001:db8::1"
        raise click.UsageError(said) from None


def _field(line: str) -> tuple[str, str]:
    from edgeproxy.policies.field_names import TOKEN

    name, colon, value = line.partition(":")
    if not colon or not TOKEN.fullmatch(name.strip()):
        raise click.UsageError(f"{line!r} is not a header; write it like 'Accept: text/html'.")
    return name.strip(), value.strip()
