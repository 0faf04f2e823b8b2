"""The command line: what is printed, where, and the exit code. What it calls is replaced by stand-ins."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import httpx
import pytest
import respx
from click.testing import CliRunner, Result

from edgeproxy import __version__
from edgeproxy.admin import ADMIN_SERVICE
from edgeproxy.admin.explain import Explanation, Question
from edgeproxy.cli import main
from edgeproxy.context import Note, Verdict
from edgeproxy.errors import ConfigError, RequestError
from edgeproxy.policies.api_key import parse_keys
from edgeproxy.policies.basic import parse_users
from edgeproxy.policies.credential import Holder
from edgeproxy.units import Duration, Model

COMMANDS = ["run", "check", "demo", "purge", "explain", "schema", "version", "api-key", "password"]


class Cache(Model):
    ttl: Duration = 60.0


class Geo(Model):
    deny: tuple[str, ...] = ()
    unknown: str = "allow"


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    """`run` leaves the collector off until it forks, which the stand-in does not."""
    yield
    gc.enable()


def step(word: str, rule: object) -> SimpleNamespace:
    return SimpleNamespace(word=word, rule=rule)


CONFIG = SimpleNamespace(
    routes=(
        SimpleNamespace(
            name="api",
            match=SimpleNamespace(
                host=("api.example.com",), path=("/api/**", "/v2/**"), methods=("GET", "HEAD")
            ),
            policies=(
                step("rate_limit", ("per_client", "per_user")),
                step("geo", Geo(deny=("KP",))),
                step("headers", Geo()),
                step("use", SimpleNamespace(path="acme.policy:Guard", options={"password": "s3cret"})),
            ),
            cache=Cache.model_validate({"ttl": "30s"}),
            origin="eu",
        ),
        SimpleNamespace(
            name="rest",
            match=SimpleNamespace(host=("*",), path=("/**",), methods=None),
            policies=(),
            cache=None,
            origin={"by_country": {"US": "us"}, "otherwise": "nearest"},
        ),
    )
)
EXPLANATION = Explanation(
    method="GET", url="http://example.com/", client="192.0.2.1", client_why="the socket", route="api",
    notes=(Note("geo", Verdict.REFUSE, "country KP is denied"),), status=403,
)  # fmt: skip

Use = Callable[..., None]
import_module("edgeproxy.config.as_yaml")  # not to be looked for in what stands in for its package


@pytest.fixture
def use(monkeypatch) -> Use:
    """Replace a module by one that holds just these names."""

    def replace(module: str, **names: object) -> None:
        made = ModuleType(module)
        vars(made).update(names)
        monkeypatch.setitem(sys.modules, module, made)
        parent, _, child = module.rpartition(".")
        if parent in sys.modules:
            monkeypatch.setattr(sys.modules[parent], child, made, raising=False)

    return replace


@pytest.fixture
def yaml(tmp_path) -> str:
    path = tmp_path / "edge.yaml"
    path.write_text("routes: []\n")
    return str(path)


def call(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, env={"COLUMNS": "100", **(env or {})})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_what_it_does(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4
    assert "Example" in result.output or command in ("demo", "version")


def test_help_lists_the_commands_in_the_order_of_use():
    output = call("--help").output
    places = [output.index(f"\n  {command} ") for command in COMMANDS]
    assert places == sorted(places)
    assert "Exit codes" in output


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_the_version_is_said(arguments):
    result = call(*arguments)
    assert result.exit_code == 0
    assert f"{__version__} (Python 3." in result.output or arguments == ["--version"]
    assert __version__ in result.output


def test_help_and_version_import_nothing_heavy():
    script = (
        "import sys; from click.testing import CliRunner; from edgeproxy.cli import main\n"
        "for asked in ('--help', 'version'): assert CliRunner().invoke(main, [asked]).exit_code == 0\n"
        "print([m for m in ('httpx', 'yaml', 'pydantic', 'uvicorn', 'asyncio.runners') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_check_prints_the_routes_as_a_table(use, yaml):
    use("edgeproxy.config", load_config=lambda _: CONFIG)
    result = call("check", "--alone", yaml)
    assert result.exit_code == 0
    title, api, rest, end = result.output.splitlines()
    assert title.split() == ["ROUTE", "HOSTS", "PATHS", "METHODS", "POLICIES", "CACHE", "ORIGIN"]
    assert api.split(maxsplit=4) == [
        "api", "api.example.com", "/api/**|/v2/**", "GET|HEAD",
        "rate_limit(per_client|per_user) > geo(deny=KP) > headers > use(acme.policy:Guard)  ttl=30s  eu",
    ]  # fmt: skip
    assert rest.split(maxsplit=5)[:5] == ["rest", "*", "/**", "*", "-"]
    assert rest.split(maxsplit=5)[5].split() == ["off", "by_country=US=us", "otherwise=nearest"]
    assert end == f"{yaml}: all well, 2 routes"
    assert title.index("CACHE") == api.index("ttl=30s") == rest.index("off")
    assert "s3cret" not in result.output


def test_no_cell_of_the_table_is_wide(use, yaml):
    route = SimpleNamespace(
        name="long",
        match=SimpleNamespace(host=[f"h{n}.example" for n in range(20)], path=("/**",), methods=()),
        policies=(step("ab", "a"), step("cors", Geo(deny=("KP",) * 20))),
        cache=None,
        origin=" ".join(["a\nb"] * 40),
    )
    use("edgeproxy.config", load_config=lambda _: SimpleNamespace(routes=(route,)))
    _, row, _ = call("check", "--alone", yaml).output.splitlines()
    assert len(row) < 180
    assert "> cors " in row, "what does not fit in brackets is left to explain"
    assert "h0.example|h1.example" in row


def test_check_tries_the_configuration_out_unless_told_not_to(use, yaml):
    use("edgeproxy.config", load_config=lambda _: CONFIG)

    def fail(config: object, *, folders: bool) -> None:
        assert (config, folders) == (CONFIG, True)
        raise ConfigError("edge.yaml:3: geo.database: it is not there")

    use("edgeproxy.rehearsal", rehearse=fail)
    result = call("check", yaml)
    assert (result.exit_code, result.stdout) == (1, "")
    said, hint = result.stderr.splitlines()
    assert said == "edge.yaml:3: geo.database: it is not there"
    assert "--alone" in hint
    assert call("check", "--alone", yaml).exit_code == 0


def test_explain_asks_the_running_edge_that_is_named_whatever_the_environment_says(yaml):
    asked = "explain", "GET", "http://x/", "--admin", "http://127.0.0.1:1", "--token", "t" * 16
    for more, env, code, said in (
        ([], {"EDGEPROXY_CONFIG": yaml}, 1, "No admin API at http://127.0.0.1:1"),
        (["--config", yaml], {}, 2, "not both"),
    ):
        result = call(*asked, *more, env=env)
        assert (result.exit_code, said in result.stderr) == (code, True)


def broken(path: Path) -> None:
    raise ConfigError("edge.yaml:3: routes[0].match: found 'x'\nedge.yaml:9: origins: found nothing")


@pytest.mark.parametrize(
    "arguments",
    [["check"], ["run", "--config"], ["explain", "GET", "http://x/", "--config"]],
    ids=["check", "run", "explain"],
)
def test_a_wrong_configuration_prints_all_errors_on_stderr_without_a_traceback(use, yaml, arguments):
    use("edgeproxy.config", load_config=broken)
    use("edgeproxy.explain", explain_config=None)
    use("edgeproxy.server.supervisor", run=broken)
    result = call(*arguments, yaml)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "edge.yaml:3: routes[0].match: found 'x'",
        "edge.yaml:9: origins: found nothing",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["check", "missing.yaml"],
        ["run"],
        ["run", "--config", "missing.yaml"],
        ["explain", "GET"],
        ["purge"],
        ["purge", "--all", "--host", "a.example", "--token", "t"],
        ["purge", "--all"],
        ["nonsense"],
        ["purge", "--nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_two(arguments):
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Error:" in result.stderr


@pytest.mark.parametrize("code", [0, 1])
def test_run_hands_the_file_to_the_supervisor_and_returns_its_code(use, yaml, code):
    seen: list[Path] = []

    def run(path: Path) -> int:
        seen.append(path)
        return code

    use("edgeproxy.server.supervisor", run=run)
    assert call("run", "--config", yaml).exit_code == code
    assert call("run", env={"EDGEPROXY_CONFIG": yaml}).exit_code == code
    assert call("run", yaml).exit_code == code
    assert seen == [Path(yaml)] * 3


def test_a_file_that_is_named_counts_more_than_the_variable_and_two_are_refused(use, yaml, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("")
    seen: list[Path] = []
    use("edgeproxy.server.supervisor", run=lambda path: seen.append(path) or 0)
    assert call("run", yaml, env={"EDGEPROXY_CONFIG": str(other)}).exit_code == 0
    assert seen == [Path(yaml)]
    refused = call("run", yaml, "--config", str(other))
    assert (refused.exit_code, "Name one file" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(98, "cannot listen on 127.0.0.1:80: Address already in use"),
            "cannot listen on 127.0.0.1:80",
        ),
        (FileNotFoundError(2, "No such file or directory", "/var/limits"), "/var/limits: No such file"),
        (OSError("no free port"), "no free port"),
    ],
    ids=["address", "file", "words"],
)
def test_what_the_system_refuses_is_one_line(use, yaml, error, said):
    def run(_: Path) -> int:
        raise error

    use("edgeproxy.server.supervisor", run=run)
    result = call("run", yaml)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {said}")
    assert len(result.stderr.splitlines()) == 1


def test_demo_runs_the_demo(use):
    use("edgeproxy.demo", run=None)
    use("edgeproxy.demo.run", run_demo=lambda _: 0)
    assert call("demo").exit_code == 0


def test_schema_is_json(use):
    use("edgeproxy.config", schema=lambda: {"type": "object"})
    assert json.loads(call("schema").output) == {"type": "object"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], None),
        (["--answer", "Cache-Control: no-store"], (200, [("Cache-Control", "no-store")])),
        (["--status", "404"], (404, [])),
    ],
)
def test_explain_asks_with_what_was_given_and_prints_a_tree(use, yaml, more, told):
    asked = []

    def explain(*arguments: object) -> Explanation:
        asked.append(arguments)
        return EXPLANATION

    use("edgeproxy.config", load_config=lambda _: CONFIG)
    use("edgeproxy.explain", explain_config=explain)
    result = call(
        "explain", "GET", "http://example.com/", "--config", yaml, "--from", "192.0.2.1",
        "--header", "Accept: text/html", "-H", "Cookie:a=b", *more,
    )  # fmt: skip
    assert result.exit_code == 0
    assert result.output == EXPLANATION.as_tree()
    fields = [("Accept", "text/html"), ("Cookie", "a=b")]
    assert asked == [(CONFIG, Question("GET", "http://example.com/", "192.0.2.1", fields, told))]


def test_explain_prints_json_for_programs(use, yaml):
    use("edgeproxy.config", load_config=lambda _: CONFIG)
    use("edgeproxy.explain", explain_config=lambda *_: EXPLANATION)
    result = call("explain", "GET", "http://example.com/", "--config", yaml, "--json")
    assert json.loads(result.output) == EXPLANATION.as_dict()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            RequestError(400, "bad-target", "It climbs."),
            1,
            "answer http://x/.. with 400 bad-target: It climbs.",
        ),
        (ValueError("It climbs."), 2, "It climbs."),
    ],
    ids=["door", "value"],
)
def test_explain_says_what_is_refused_before_it_is_a_request(use, yaml, error, code, said):
    def explain(*_: object) -> Explanation:
        raise error

    use("edgeproxy.config", load_config=lambda _: CONFIG)
    use("edgeproxy.explain", explain_config=explain)
    result = call("explain", "GET", "http://x/..", "--config", yaml)
    assert result.exit_code == code
    assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://x/", "-H", "nonsense"], "is not a header"),
        (["http://x/", "-H", "X Y: a"], "is not a header"),
        (["http://x/", "--from", "me"], "expected an IP address"),
        (["x/y"], "like http://x/y"),
    ],
    ids=["no header", "no field name", "no address", "no URL"],
)
def test_explain_refuses_what_cannot_be_meant(use, yaml, arguments, said):
    use("edgeproxy.config", load_config=lambda _: CONFIG)
    use("edgeproxy.explain", explain_config=None)
    result = call("explain", "GET", *arguments, "--config", yaml)
    assert (result.exit_code, said in result.stderr) == (2, True)


@respx.mock
def test_purge_counts_one_response_as_one():
    done = {"purged": "all", "value": "", "workers": {"reached": 1, "running": 1}, "responses": 1}
    respx.get("http://127.0.0.1:9900/livez").respond(200, json={"service": ADMIN_SERVICE})
    respx.post("http://127.0.0.1:9900/purge").respond(200, json=done)
    result = call("purge", "--all", "--token", "t0ken")
    assert result.output == "purged: all\n1 response in 1 of 1 workers\n"


@pytest.mark.parametrize(
    ("arguments", "document"),
    [
        (["--url", "http://a.example/x?y"], {"url": "http://a.example/x?y", "soft": False}),
        (["--prefix", "http://a.example/x", "--soft"], {"prefix": "http://a.example/x", "soft": True}),
        (["--host", "a.example"], {"host": "a.example", "soft": False}),
        (["--tag", "news"], {"tag": "news", "soft": False}),
        (["--all"], {"all": True, "soft": False}),
    ],
    ids=["url", "prefix", "host", "tag", "all"],
)
@respx.mock
def test_purge_posts_to_the_admin_api_with_the_token(arguments, document):
    done = {"purged": "tag", "value": "news", "soft": document["soft"]}
    done |= {"workers": {"reached": 2, "running": 2}, "responses": 7}
    respx.get("http://127.0.0.1:9900/livez").respond(200, json={"service": ADMIN_SERVICE})
    route = respx.post("http://127.0.0.1:9900/purge").respond(200, json=done)
    result = call("purge", *arguments, env={"EDGEPROXY_ADMIN_TOKEN": "t0ken"})
    assert result.exit_code == 0
    assert (
        result.output
        == f"{'made stale' if document['soft'] else 'purged'}: tag news\n7 responses in 2 of 2 workers\n"
    )
    request = route.calls.last.request
    assert json.loads(request.content) == document
    assert request.headers["authorization"] == "Bearer t0ken"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            httpx.Response(401, json={"detail": "Send the token."}),
            "knows another token: give its admin.token.",
        ),
        (httpx.Response(502, text="<html>"), "answered 502: no reason given"),
        (httpx.Response(404, json=["odd"]), "answered 404: no reason given"),
    ],
    ids=["refused", "not JSON", "not an object"],
)
@respx.mock
def test_purge_says_why_the_admin_api_refused(answer, said):
    respx.get("http://edge:9900/livez").respond(200, json={"service": ADMIN_SERVICE})
    respx.post("http://edge:9900/purge").mock(return_value=answer)
    result = call("purge", "--all", "--token", "t0ken", "--admin", "http://edge:9900")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "t0ken" not in result.output


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="ok"),
        httpx.Response(404, json={"title": "Not Found"}),
        httpx.Response(200, json={"status": "alive", "service": "shop"}),
        httpx.Response(200, json=["odd"]),
        httpx.Response(302, headers={"Location": "http://127.0.0.1:9900/livez"}),
    ],
    ids=["not JSON", "not found", "another service", "not an object", "elsewhere"],
)
@respx.mock
def test_the_token_goes_to_nothing_but_an_admin_api(answer):
    asked = respx.route().mock(return_value=answer)
    result = call("purge", "--all", "--token", "t0ken", "--admin", "http://edge:8080")
    assert result.exit_code == 1
    assert (
        "http://edge:8080 answers, but it is no admin API of an edge: the token was not sent" in result.stderr
    )
    assert [call.request.url.path for call in asked.calls] == ["/livez"]
    assert "authorization" not in asked.calls.last.request.headers


@pytest.mark.parametrize("admin", ["http://127.0.0.1:1", "http://["])
def test_purge_says_so_when_there_is_no_admin_api(admin):
    result = call("purge", "--all", "--token", "t0ken", "--admin", admin)
    assert result.exit_code == 1
    assert f"No admin API at {admin}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--token", "t0ken", "--admin", "127.0.0.1:9900"], "write a URL, like http://127.0.0.1:9900"),
        (["--token", "t0k\n"], "no header can carry"),
        (["--token", "t\xf6ken"], "no header can carry"),
    ],
    ids=["no URL", "line end", "not ASCII"],
)
def test_purge_says_what_is_wrong_before_it_asks(more, said):
    result = call("purge", "--all", *more)
    assert (result.exit_code, said in result.stderr) == (2, True)
    assert "t0k" not in result.stderr


def test_an_api_key_is_shown_once_with_its_line():
    done = CliRunner().invoke(main, ["api-key", "partner-a", "read", "write"])
    key, line = (row.split("  ", 1)[1].strip() for row in done.stdout.splitlines())
    found = parse_keys(line.encode()).find(key.encode())
    assert found == Holder("partner-a", ("read", "write"))
    assert key not in line
    assert len(key) == 43


def test_a_password_is_asked_for_twice_and_printed_hashed():
    done = CliRunner().invoke(main, ["password", "alice", "admin"], input="wonderland\nwonderland\n")
    assert done.exit_code == 0
    line = done.stdout.strip()
    assert parse_users(line.encode()).check(b"alice", b"wonderland") == Holder("alice", ("admin",))
    assert "wonderland" not in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["api-key", "a/b"], "expected a name"),
        (["api-key", "a b"], "is one word"),
        (["api-key", ""], "is one word"),
        (["api-key", "a", 're"ad'], "expected words of a scope"),
    ],
)
def test_a_line_that_would_be_refused_is_not_made(arguments, said):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert said in done.stderr
