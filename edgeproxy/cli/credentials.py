"""`edgeproxy api-key` and `edgeproxy password`: lines for the files of `api_key` and `basic`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

import click


@click.command("api-key")
@click.argument("name")
@click.argument("scope", nargs=-1)
def api_key(name: str, scope: tuple[str, ...]) -> None:
    """Make an API key, and its line for the file of `api_key`.

    The key is shown once: the file only has its digest.

    \b
    Example:
      edgeproxy api-key partner-a read write
    """
    from edgeproxy.policies.api_key import key_line, parse_keys

    key = secrets.token_urlsafe(32)
    line = " ".join([key_line(name, key), *scope])
    _checked(parse_keys, line, (name, *scope))
    click.echo(f"key   {key}\nline  {line}")


@click.command()
@click.argument("user")
@click.argument("scope", nargs=-1)
def password(user: str, scope: tuple[str, ...]) -> None:
    """Ask for a password, and print its line for the file of `basic`.

    The line has the user's name, a slow hash of the password and the scopes; the password is not kept.

    \b
    Example:
      edgeproxy password alice admin >> users
    """
    from edgeproxy.policies.basic import parse_users
    from edgeproxy.policies.basic_hash import hash_password

    text: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    line = " ".join([user, hash_password(text.encode(), secrets.token_bytes(16)), *scope])
    _checked(parse_users, line, (user, *scope))
    click.echo(line)


def _checked(parse: Callable[[bytes], object], line: str, words: Iterable[str]) -> None:
    """Say what is wrong with the name or the words, before somebody relies on them."""
    if any(word.split() != [word] for word in words):
        raise click.UsageError("A name or a scope is one word, without spaces.")
    try:
        parse(line.encode())
    except ValueError as error:
        raise click.UsageError(str(error).partition(": ")[2]) from None
