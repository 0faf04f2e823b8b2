"""No container engine runs here. What can be proved without one: files are valid, steps work."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from jsonschema.validators import validator_for

from edgeproxy.config import load_config

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EDGES = ("edge-eu", "edge-us")
SECRET = re.compile(r"(?i)(token|secret|password|key)\w*[=:] *[^\s$]")


class Step(NamedTuple):
    """One instruction of the Dockerfile."""

    stage: int
    word: str
    rest: str


def dockerfile() -> list[Step]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    steps: list[Step] = []
    stage = -1
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if not line or line.startswith("#"):
            continue
        stage += word == "FROM"
        steps.append(Step(stage, word, rest.strip()))
    return steps


STEPS = dockerfile()
LAST = max(step.stage for step in STEPS)
FINAL = {step.word: step.rest for step in STEPS if step.stage == LAST}


# --- Dockerfile


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: its package has no build for this machine")
    found = subprocess.run(
        [hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "")


def test_every_stage_begins_with_one_pinned_slim_base() -> None:
    bases = {step.rest.split()[0] for step in STEPS if step.word == "FROM"}
    assert LAST == 1, "one stage builds, one runs"
    assert len(bases) == 1, "the interpreter that built the environment runs it"
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", bases.pop())


def test_the_image_runs_as_nobody_in_particular() -> None:
    words = [step.word for step in STEPS if step.stage == LAST]
    assert re.fullmatch(r"[1-9]\d*", FINAL["USER"]), (
        "a number, so that an orchestrator can see it is not root"
    )
    assert f"--uid {FINAL['USER']} " in FINAL["RUN"]
    assert words.index("USER") > max(at for at, word in enumerate(words) if word in ("RUN", "COPY"))


def test_a_stop_reaches_the_edge_itself() -> None:
    assert FINAL["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(FINAL["ENTRYPOINT"]) == ["edgeproxy"], "no shell between the engine and the edge"
    assert json.loads(FINAL["CMD"])[0] == "run"


def test_the_image_says_how_it_is() -> None:
    options, _, command = FINAL["HEALTHCHECK"].partition("CMD ")
    assert {"--interval", "--timeout", "--start-period", "--retries"} == set(
        re.findall(r"--[a-z-]+", options)
    )
    python, flag, code = json.loads(command)
    assert (python, flag) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert "127.0.0.1:9900/readyz" in code
    assert "9900" in FINAL["EXPOSE"]


def test_what_is_copied_exists_and_is_named_one_by_one() -> None:
    copied = [step.rest for step in STEPS if step.word in ("COPY", "ADD") and "--from=" not in step.rest]
    sources = [source for rest in copied for source in rest.split()[:-1]]
    assert sources
    assert "." not in sources, "the whole folder would bring what nobody meant to ship"
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_no_secret_is_baked_in_or_sent_along() -> None:
    assert [step for step in STEPS if step.word == "ARG" or SECRET.search(step.rest)] == []
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", ".env"} <= set(ignored)


# --- docker-compose.yml


def test_the_compose_file_follows_the_official_schema() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema, which carries the schema, is missing")
    vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    schema = json.loads(vendored.read_text())
    validator = validator_for(schema)(schema)
    assert validator.is_valid(COMPOSE), list(validator.iter_errors(COMPOSE))
    wrong = {**COMPOSE, "services": {**SERVICES, "prometheus": {"imagine": "prom/prometheus"}}}
    assert not validator.is_valid(wrong), "a schema that lets everything pass proves nothing"


def test_the_compose_file_fits_together() -> None:
    assert set(SERVICES) == {"origin-eu", "origin-us", *EDGES, "prometheus"}
    for service in SERVICES.values():
        assert set(service.get("depends_on", [])) <= set(SERVICES)
        for volume in service.get("volumes", []):
            assert (ROOT / volume.partition(":")[0]).exists()
    scraped = yaml.safe_load((ROOT / "config" / "prometheus.yml").read_text())["scrape_configs"][0]
    targets = [target for one in scraped["static_configs"] for target in one["targets"]]
    assert targets == [f"{edge}:9900" for edge in EDGES]


def test_no_service_opens_the_admin_listener_to_the_host() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len({port.partition(":")[0] for port in ports}) == len(ports) == 3
    assert not [port for port in ports if port.endswith(":9900")]


def test_the_admin_token_has_no_default() -> None:
    for edge in EDGES:
        assert SERVICES[edge]["environment"]["EDGE_ADMIN_TOKEN"].startswith("${EDGE_ADMIN_TOKEN:?")
    assert 'token: "${EDGE_ADMIN_TOKEN}"' in (ROOT / "config" / "compose.yaml").read_text()


def composed(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("EDGE_ADMIN_TOKEN", "a-token-for-this-test")
    return load_config(ROOT / "config" / "compose.yaml")


def test_the_two_regions_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = {name: composed(name, monkeypatch).edge for name in EDGES}
    assert [edge.id for edge in edges.values()] == list(EDGES)
    assert [edge.pop for edge in edges.values()] == ["eu", "us"]
    origins = composed("edge-eu", monkeypatch).origins
    for name, edge in edges.items():
        assert edge.location == origins[name.removeprefix("edge-")].location, "each beside its own origin"


# --- what the Dockerfile does, done here


def pip_reaches_an_index(python: Path, folder: Path) -> bool:
    command = [python, "-m", "pip", "download", "-q", "--no-deps", "--retries=0", "-d", folder, "hatchling"]
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False  # one that swallows packets


def test_the_steps_of_the_image_work_in_a_clean_environment(tmp_path: Path) -> None:
    """The build stage's RUN lines as they are written, then the final stage's files and commands."""
    source, venv, etc = tmp_path / "src", tmp_path / "venv", tmp_path / "etc"
    source.mkdir()
    etc.mkdir()
    clean = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONDONTWRITEBYTECODE": "1"}
    clean |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    clean |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}

    def run(*command: str | Path, cwd: Path, **more: str) -> str:
        done = subprocess.run(
            command, cwd=cwd, env={**clean, **more}, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for step in STEPS:
        if step.stage == 0 and step.word == "COPY":
            *names, target = step.rest.split()
            for name in names:
                if (ROOT / name).is_dir():
                    shutil.copytree(
                        ROOT / name, source / target, ignore=shutil.ignore_patterns("__pycache__", "*.so")
                    )
                else:
                    shutil.copy(ROOT / name, source / target)
    for step in STEPS:
        if step.stage == 0 and step.word == "RUN":
            words = shlex.split(step.rest.replace("/opt/venv", str(venv)))
            if words[0] == "apt-get":
                continue  # for the compiler, whose work tests/compiled does in CI
            if words[0] == "python":
                words[0] = sys.executable
            elif not pip_reaches_an_index(venv / "bin" / "python", tmp_path):
                pytest.skip("pip reaches no package index: the install steps cannot run here")
            run(*words, cwd=source)
    for step in STEPS:
        if step.stage == LAST and step.word == "COPY" and "--from=" not in step.rest:
            name, target = step.rest.split()
            shutil.copy(ROOT / name, etc / Path(target).name)
    shutil.rmtree(source)  # nothing of the checkout may be needed

    edgeproxy = venv / "bin" / FINAL["ENTRYPOINT"].strip('[]"')
    said = run(edgeproxy, "version", cwd=tmp_path)
    assert re.search(r"\d+\.\d+", said)
    shutil.copy(ROOT / "config" / "minimal.yaml", tmp_path)
    assert "app" in run(edgeproxy, "check", "minimal.yaml", cwd=tmp_path)
    settings = {**SERVICES["edge-eu"]["environment"], "EDGE_ADMIN_TOKEN": "a-token-for-this-test"}
    configuration = etc / Path(json.loads(FINAL["CMD"])[-1]).name
    assert "site" in run(edgeproxy, "check", configuration, cwd=tmp_path, **settings)
    origin = SERVICES["origin-eu"]["entrypoint"]
    run(venv / "bin" / origin[0], *origin[1:], "--help", cwd=tmp_path)
