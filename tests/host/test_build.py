"""What `ymir-exc build` finds before it needs an engine; with one it is in tests/docker."""
from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ymir_exc.errors import ConfigError
from ymir_exc.host import _build_checks, _build_context, build
from ymir_exc.host.engine import Engine
from ymir_exc.host.findings import RULES


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "My Project 项目"
    root.mkdir()
    (root / "Dockerfile").write_text("FROM scratch\n")
    return root


def put(root, name, content=b"x"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def met(root):
    return {(one.kind, one.path) for one in _build_context.scan(root).met}


@pytest.mark.parametrize("name", [".env", "app/.env.production", "id_rsa", "keys/id_ed25519", ".netrc", "home/.aws/credentials", "a.pfx"])
def test_secrets_are_found_by_name(project, name):
    put(project, name)
    assert met(project) == {("secret", name)}


@pytest.mark.parametrize("name", [".env.example", "environment.yaml", "id_rsa.pub", "credentials.py", "app.py"])
def test_harmless_names(project, name):
    put(project, name)
    assert met(project) == set()


def test_a_pem_is_a_secret_when_a_private_key_is_in_it(project):
    put(project, "ca.pem", b"-----BEGIN CERTIFICATE-----\n")
    put(project, "server.pem", b"-----BEGIN CERTIFICATE-----\n-----BEGIN RSA PRIVATE KEY-----\n")
    put(project, "tls.key", b"-----BEGIN PRIVATE KEY-----\n")
    assert met(project) == {("secret", "server.pem"), ("secret", "tls.key")}


def test_git_weights_and_datasets(project):
    put(project, ".git/HEAD")
    put(project, "small.pt")
    with put(project, "large.pt").open("r+b") as f:
        f.truncate(_build_context.LARGE_BYTES + 1)
    for n in range(_build_context.MANY_IMAGES + 1):
        put(project, f"data/{n}.JPG", b"")
        put(project, f"few/{n % 500}.png", b"")
    assert met(project) == {("git", ".git"), ("weights", "large.pt"), ("images", "data")}
    found = {one.rule.code: one for one in _build_checks.context_findings(project, _build_context.scan(project))}
    assert set(found) == {"B613", "B614", "B615"}
    assert found["B615"].message.startswith("501 images")
    assert found["B614"].path == str(project / "large.pt")


@pytest.mark.parametrize("text,path,ignored", [
    ("*.pem", "a.pem", True), ("*.pem", "sub/a.pem", False), ("**/*.pem", "sub/deep/a.pem", True), ("**/*.pem", "a.pem", True),
    ("data", "data/a/b.jpg", True), ("/data/", "data/a.jpg", True), ("data", "database.txt", False), ("data/*/raw", "data/x/raw/1", True),
    ("data/*/raw", "data/x/y/raw/1", False), ("*\n!app", "app/x.py", False), ("*\n!app", "other/x.py", True),
    ("*\n!app\napp/secret", "app/secret", True), ("# a.pem", "a.pem", False), ("a?.pt", "a1.pt", True), ("[ab].pt", "b.pt", True),
    ("[ab].pt", "c.pt", False), ("a.b", "axb", False), ("", "x", False), ("./data/../logs", "logs/1", True), ("[", "[", False),
    ("  data  \r", "data/1", True), ("**", "a/b", True), ("a/**", "a/b/c", True)])
def test_dockerignore(project, text, path, ignored):
    put(project, ".dockerignore", text.encode())
    assert _build_context.ignore_rules(project)(path) is ignored


def test_what_is_ignored_is_not_found(project):
    put(project, ".env")
    put(project, "data/id_rsa")
    put(project, ".dockerignore", b"*\n!app\n!Dockerfile\n")
    put(project, "app/start.py")
    context = _build_context.scan(project)
    assert (context.met, context.files) == ((), 2)


def test_a_folder_without_a_dockerfile(tmp_path):
    with pytest.raises(ConfigError, match="has no Dockerfile"):
        build.build(Engine("docker", dry_run=True), tmp_path)


@pytest.mark.parametrize("tag", ["Upper/Case", "-x", "a b", "x:", "--privileged"])
def test_a_tag_that_is_none(project, tag):
    with pytest.raises(ConfigError, match="no name of an image"):
        build.build(Engine("docker", dry_run=True), project, tag=tag)


def test_default_tag(project, tmp_path):
    assert build.default_tag(project) == "my-project"
    assert build.default_tag(tmp_path / "项目") == "ymir-image"


def test_labels(project, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = build.labels(project, "x:1")
    assert made["org.opencontainers.image.created"] == "2023-11-14T22:13:20Z"
    assert made["org.opencontainers.image.title"] == project.name
    assert made["ymir-exc.contract"] == "1.1.0" and made["ymir-exc.version"]
    assert "org.opencontainers.image.revision" not in made


@pytest.mark.parametrize("packed", [False, True])
def test_the_revision_is_read_from_git(project, packed):
    put(project, ".git/HEAD", b"ref: refs/heads/main\n")
    commit = "a" * 40
    if packed:
        put(project, ".git/packed-refs", f"# pack-refs\n{commit} refs/heads/main\n".encode())
    else:
        put(project, ".git/refs/heads/main", f"{commit}\n".encode())
    below = project / "sub"
    below.mkdir()
    assert build.labels(below, "x")["org.opencontainers.image.revision"] == commit


def command(*words, **environ):
    return subprocess.run([sys.executable, "-m", "ymir_exc", "build", *words], capture_output=True, text=True, encoding="utf-8",
                          env={**os.environ, **environ})


def test_a_dry_run_prints_every_command_and_runs_none(project):
    done = command(str(project), "--dry-run", "--network", "host", "--build-arg", "A=b c", "--engine", "docker", PATH="/nowhere")
    assert done.returncode == 0, done.stderr
    check, first = done.stdout.splitlines()[:2]
    assert check == "docker info"
    assert first.startswith("docker build --force-rm -t my-project --network host --build-arg 'A=b c' --label ")
    assert first.endswith(f"'{project}'")
    assert " cat /img-man/training-template.yaml" in done.stdout


def test_without_an_engine(project):
    done = command(str(project), PATH="/nowhere")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1 and "docker is not installed" in done.stderr


def test_the_rules_have_their_codes():
    ours = [code for code in RULES if code.startswith("B")]
    assert len(ours) == 17
    assert all(RULES[code].remedy and RULES[code].why for code in ours)


def test_a_step_that_fails_is_told_in_one_line(project, tmp_path):
    fake = tmp_path / "bin" / "docker"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\n[ $1 = info ] && exit 0\necho step 3 failed >&2\nexit 7\n")
    fake.chmod(0o755)
    done = command(str(project), "-q", PATH=f"{fake.parent}:/usr/bin:/bin")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "step 3 failed"
    assert done.stderr.splitlines()[1].startswith("ymir-exc: docker could not build")
    told = command(str(project), "--json", PATH=f"{fake.parent}:/usr/bin:/bin").stderr.splitlines()    # unless it is to be quiet
    assert told[0] == "docker info" and told[1].startswith("docker build --force-rm ") and told[2] == "step 3 failed"
