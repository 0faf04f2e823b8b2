"""What several commands take."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
CONFIG = click.option(
    "--config", "config", type=FILE, required=True, envvar="EDGEPROXY_CONFIG", show_envvar=True,
    metavar="FILE", help="The YAML file.",
)  # fmt: skip
