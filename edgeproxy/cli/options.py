"""What several commands take, and how they end when what they need is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., object])

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _config(said: str, *, required: bool = False) -> Callable[[Command], Command]:
    return click.option(
        "--config", "-c", "config", type=FILE, required=required, envvar="EDGEPROXY_CONFIG",
        show_envvar=True, metavar="FILE", help=said,
    )  # fmt: skip


CONFIG = _config("The YAML file.", required=True)
ANY_CONFIG = _config("The configuration file.")


def takes_file(command: Command) -> Command:
    """The configuration as an argument, or as an option like everywhere else."""
    return click.argument("file", type=FILE, required=False)(_config("The same, as an option.")(command))


def named_file(file: Path | None, config: Path | None) -> Path:
    """The one that was given. A usage error when there is none, or when they are two."""
    if file is not None and config is not None and file != config:
        source = click.get_current_context().get_parameter_source("config")
        if source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"Name one file: {file} or {config}?")
    path = file or config
    if path is None:
        name = click.get_current_context().command_path
        raise click.UsageError(f"Name the file: {name} edge.yaml")
    return path
