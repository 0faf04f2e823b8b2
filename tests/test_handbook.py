"""The operator's handbook says what is there: metrics, log fields, words of the cache, keys, commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeproxy.cli import main
from edgeproxy.config import read_config
from edgeproxy.config.file import parse
from edgeproxy.decision import Cause
from edgeproxy.observe.access_log import AccessLog
from edgeproxy.observe.cells import Cells
from edgeproxy.observe.families import FAMILIES, GAUGES, Family
from edgeproxy.observe.outcome import Outcome

ROOT = Path(__file__).resolve().parent.parent
BOOK = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8"), "config/README.md": BOOK}
EVERYTHING = yaml.safe_load((ROOT / "config" / "edge.yaml").read_text(encoding="utf-8"))


def table(title: str) -> list[str]:
    """The rows of the first table of a section."""
    section = BOOK.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")][1:]


def first_words(title: str) -> list[str]:
    return [word for line in table(title) for word in re.findall(r"`([^`]+)`", line.split("|")[1])]


def row(name: str, family: Family) -> str:
    kind = "gauge" if family.kind in GAUGES else family.kind.value
    return f"| `{name}` | {kind} | {', '.join(family.labels)} | {family.help} |"


def test_the_table_of_metrics_is_that_of_the_registry() -> None:
    there = [row(name, family) for name, family in FAMILIES.items()]
    assert table("Metrics") == there, "python -m tests.test_handbook writes it anew"


def test_every_metric_is_counted_somewhere() -> None:
    written = (path for path in (ROOT / "edgeproxy").rglob("*.py") if path.stem != "families")
    code = "".join(path.read_text(encoding="utf-8") for path in written)
    assert [name for name in FAMILIES if f'"{name}"' not in code] == []


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_a_metric_that_is_not_there(page: str) -> None:
    named = set(re.findall(r"\bedgeproxy_[a-z_]+[a-z]\b", PAGES[page]))
    assert named
    assert named <= set(FAMILIES)


def test_the_table_of_log_fields_is_that_of_the_log() -> None:
    full = Outcome(
        0.0, "c", b"GET", b"h", b"/", b"q", 200, b"hit", "r", "id", 0.0, 0, b"a", country="NL",
        variants="v", policy="p", reason="r", shadow="s", origin="o", server="s", error="e", error_detail="d",
        received=1,
    )  # fmt: skip
    log = AccessLog(Cells(1).slot(0), "-")
    log.append(full)
    assert sorted(first_words("The access log")) == sorted(json.loads(log.render()))


def test_the_words_of_the_cache_are_all_there() -> None:
    assert sorted(first_words("What an answer says about itself")) == sorted(one.value for one in Cause)


def test_the_settings_of_other_servers_lead_to_settings_that_exist() -> None:
    cells = [line.split("|")[3] for line in table("Coming from another server")]
    paths = re.findall(r"`([a-z_]+(?:[.\[][^`]*)?)`", " ".join(cells))
    assert len(paths) > 60
    assert [path for path in paths if not any(walk(EVERYTHING, steps(path)))] == []


def steps(path: str) -> list[str]:
    return path.replace("[]", ".*").split(".")


def walk(tree: object, path: list[str]) -> Iterator[object]:
    """What stands at a path, where `*` is every key or position."""
    if not path:
        yield True
    elif path[0] == "*":
        for each in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
            yield from walk(each, path[1:])
    elif isinstance(tree, dict) and path[0] in tree:
        yield from walk(tree[path[0]], path[1:])


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_exists(page: str) -> None:
    words = re.findall(r"(?:^|`)(?:\S*/)?edgeproxy ([a-z-]+)", PAGES[page], re.MULTILINE)
    assert words
    assert set(words) <= set(main.commands)


def recipes() -> list[tuple[str, str]]:
    """(where it is written, what) of each answer under `How do I …`."""
    section = PAGES["README.md"].partition("\n## How do I")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    return [(row[-2].strip(), "|".join(row[2:-2]).strip(" `")) for row in rows]


RECIPES = recipes()
TOP = {key: value for where, what in RECIPES if where == "top" for key, value in yaml.safe_load(what).items()}


@pytest.mark.parametrize(("where", "what"), [one for one in RECIPES if one[0] != "shell"])
def test_every_recipe_works_where_it_says_it_is_written(where: str, what: str) -> None:
    made = yaml.safe_load(what)
    origin: dict[str, Any] = {"servers": ["http://10.0.1.9:8000"], "location": [0, 0]}
    route: dict[str, Any] = {"name": "all", "origin": "app"}
    if where == "origin":
        origin |= made
    elif where == "route":
        route |= made
    elif where == "policy":
        route["policies"] = [made]
    else:
        assert where == "top"
    edge = {**TOP, "edge": {"location": [0, 0]}, "origins": {"app": origin, "us": origin}, "routes": [route]}
    read_config(parse(yaml.safe_dump(edge).encode(), "edge.yaml", ROOT, {"EDGE_ADMIN_TOKEN": "t" * 16}))


def test_the_examples_of_the_readme_are_right() -> None:
    blocks = [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", PAGES["README.md"], re.DOTALL)]
    whole = [one for one in blocks if "routes" in one]
    assert len(whole) == 2
    origins = {"us": {"servers": ["http://10.0.1.9:8000"], "location": [0, 0]}}
    for one in whole:
        edge = {**TOP, "edge": {"location": [0, 0]}, "origins": origins, **one}
        read_config(parse(yaml.safe_dump(edge).encode(), "edge.yaml", ROOT, {"EDGE_ADMIN_TOKEN": "t" * 16}))


def test_there_is_a_recipe_for_every_place() -> None:
    assert {where for where, _ in RECIPES} == {"top", "route", "policy", "origin", "shell"}
    assert len(RECIPES) > 25


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_exists(page: str) -> None:
    folder = (ROOT / page).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGES[page]) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_into_a_page_leads_to_a_heading(page: str) -> None:
    there = {
        name: {re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in
               text.splitlines() if line.startswith("#")}
        for name, text in PAGES.items()
    }  # fmt: skip
    for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", PAGES[page]):
        assert heading in there[target or page]


if __name__ == "__main__":
    rows = "\n".join([row(name, family) for name, family in FAMILIES.items()])
    (ROOT / "config" / "README.md").write_text(
        BOOK.replace("\n".join(table("Metrics")), rows), encoding="utf-8"
    )
