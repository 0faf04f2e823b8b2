"""`edgeproxy purge`, and what other commands ask of a running edge: its admin API.

Rule: the token is sent only to what has said that it is one. The public port of an edge would pass it on to
an origin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

import click

from edgeproxy.admin import ADMIN_SERVICE

if TYPE_CHECKING:
    import httpx

ADMIN = "http://127.0.0.1:9900"
Command = TypeVar("Command", bound=Callable[..., object])


def of_running_edge(command: Command) -> Command:
    """Options that say which edge is asked."""
    admin = click.option(
        "--admin",
        default=ADMIN,
        envvar="EDGEPROXY_ADMIN",
        show_default=True,
        show_envvar=True,
        help="The admin API.",
    )
    token = click.option(
        "--token", envvar="EDGEPROXY_ADMIN_TOKEN", show_envvar=True, help="Its token; safer in the variable."
    )
    return admin(token(command))


@click.command()
@click.option("--url", help="This URL, in all its variants.")
@click.option("--prefix", help="Every URL that starts like this one.")
@click.option("--host", help="Everything of this host.")
@click.option("--tag", help="Everything that carries this cache tag.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.option("--soft", is_flag=True, help="Make it stale instead: it may be served while it is refreshed.")
@of_running_edge
def purge(
    url: str | None, prefix: str | None, host: str | None, tag: str | None, everything: bool, soft: bool,
    admin: str, token: str | None,
) -> None:  # fmt: skip
    """Make a running edge forget stored responses.

    Name what with exactly one of --url, --prefix, --host, --tag and --all. All workers of the edge hear of
    it; other edges do not. A URL is the one that clients ask for: what policies may rewrite it to is purged
    too. A prefix and a host are those that origins are asked for. Purged means that the next request waits
    for the origin; with --soft nobody waits.

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
    done = json_of(ask_admin(admin, token, "/purge", {**named, "soft": soft}))
    how = "made stale" if done.get("soft") else "purged"
    click.echo(f"{how}: {done.get('purged')} {done.get('value')}".rstrip())
    rewritten = done.get("rewritten")
    if isinstance(rewritten, list):
        for other in cast("list[object]", rewritten):
            click.echo(f"and what it may be rewritten to: {other}")
    workers = done.get("workers")
    if isinstance(workers, Mapping):
        count = cast("Mapping[str, object]", workers)
        stored = done.get("responses")
        what = f"{stored} response{'' if stored == 1 else 's'}"
        click.echo(f"{what} in {count.get('reached')} of {count.get('running')} workers")


def ask_admin(
    admin: str, token: str | None, path: str, document: Mapping[str, object], accept: str = "application/json"
) -> httpx.Response:
    """POST to the admin API. Exits with 2 when it cannot be asked like this, with 1 and a sentence when it
    cannot be reached or refuses."""
    import httpx

    if not token:
        raise click.UsageError(
            "Give admin.token of the edge's configuration: --token or EDGEPROXY_ADMIN_TOKEN."
        )
    if not admin.startswith(("http://", "https://")):
        raise click.UsageError(f"--admin {admin}: write a URL, like {ADMIN}")
    if not (token.isascii() and token.isprintable()):
        raise click.UsageError("The token holds what no header can carry: copy it again, without line ends.")
    fields = {"Authorization": f"Bearer {token}", "Accept": accept}
    try:
        # A proxy of the environment must not see the token.
        with httpx.Client(base_url=admin, timeout=10.0, trust_env=False) as client:
            if json_of(client.get("/livez")).get("service") != ADMIN_SERVICE:
                raise click.ClickException(
                    f"{admin} answers, but it is no admin API of an edge: the token was not sent.\n"
                    "Name the address of admin.listen, not one of server.listen."
                )
            answer = client.post(path, json=document, headers=fields)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise click.ClickException(
            f"No admin API at {admin} ({error}).\nIs the edge running, with admin.listen at that address?"
        ) from None
    if answer.status_code == 401:
        raise click.ClickException(f"{admin} knows another token: give its admin.token.")
    if answer.status_code != 200:
        raise click.ClickException(
            f"{admin} answered {answer.status_code}: {json_of(answer).get('detail', 'no reason given')}"
        )
    return answer


def json_of(answer: httpx.Response) -> dict[str, object]:
    """The document of an answer; an empty one when it is none."""
    try:
        body: object = answer.json()
    except ValueError:
        return {}
    return cast("dict[str, object]", body) if isinstance(body, dict) else {}
