"""`ymir-exc build` with a real engine: a sound project, and one image for each thing that it finds."""
from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docker.conftest import engine
from ymir_exc.host import _build_context, build
from ymir_exc.host.engine import Engine

FAULTY = Path(__file__).with_name("faulty")
NAME = "ymir-exc-test-build"


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "a project 项目"
    shutil.copytree(FAULTY, root)
    return root


def built(project, *lines, **options):
    """Build with more lines at the end of the Dockerfile; the codes that were found, and the result."""
    dockerfile = project / "Dockerfile"
    dockerfile.write_text("\n".join([dockerfile.read_text(), *lines, ""]))
    made = build.build(Engine("docker"), project, tag=f"{NAME}:{options.pop('tag', 'test')}", quiet=True, **options)
    return {one.rule.code for one in made.findings if one.rule.severity.value != "note"}, made


def test_a_sound_project(project):
    codes, made = built(project, tag="sound", build_args=["FAULT=good"])
    assert codes == set()
    assert made.tasks == ("training", "mining", "infer")
    assert made.labels["org.opencontainers.image.title"] == "a project 项目"
    assert made.labels["ymir-exc.contract"] == "1.1.0"
    assert engine("image", "inspect", "--format", "{{.Id}}", f"{NAME}:sound").stdout.strip() == made.image_id
    assert made.layers[0].size == max(layer.size for layer in made.layers) > 0
    assert sum(layer.size for layer in made.layers) <= made.size
    assert f"{NAME}:sound: " in "\n".join(build.describe(made))
    assert made.commands[1][:5] == ("docker", "build", "--force-rm", "-t", f"{NAME}:sound")


BANNER = r"""RUN printf '#!/bin/sh\necho Welcome\nexec "$@"\n' > /entry && chmod 755 /entry"""


@pytest.mark.parametrize("lines,faults", [
    (["RUN rm -r /img-man", "CMD []"], {"B601": "no template", "B604": "neither"}),
    (["RUN rm /img-man/*-template.yaml"], {"B601": "no template"}),
    ([BANNER, 'ENTRYPOINT ["/entry"]'], {"B602": "Welcome"}),
    (['ENTRYPOINT ["echo", "training"]'], {"B605": "training cat"}),
    (["RUN chmod 700 /usr/bin/sh || chmod 700 /bin/sh; chmod 700 /bin/dash"], {"B606": "sh does not run as"}),
    (["RUN chmod 644 /usr/bin/start.sh && chmod 700 /usr/lib/python3* /usr/local/lib/python3*", 'CMD ["bash"]',
      "RUN echo '- a' > /img-man/infer-template.yaml", "RUN printf A=1 > /app/.env",
      "RUN printf -- '-----BEGIN PRIVATE KEY-----' > /srv/a.pem && echo certificate > /srv/b.pem",
      "ENV HUB_TOKEN=abc INDEX=https://user:word@host/simple", "ARG PASSWORD=abc", "RUN true $PASSWORD",
      "RUN mkdir /app/.git && touch /app/.git/HEAD", "RUN mkdir /app/data && cd /app/data && seq -f %g.jpg 501 | xargs touch"],
     {"B603": "start.sh", "B606": "python3 does not run as", "B604": "bash", "B608": "infer-template.yaml", "B611": "/srv/a.pem",
      "B612": "HUB_TOKEN", "B616": "/app/.git", "B617": "501 images"}),
])
def test_each_fault_is_found(project, lines, faults):
    codes, made = built(project, *lines)
    assert {code for code in codes if code.startswith("B")} == set(faults), made.findings
    for code, words in faults.items():
        assert any(words in f"{one.message} {one.place}" for one in made.findings if one.rule.code == code), (code, made.findings)
    if "B617" in faults:
        assert {one.place.split(":")[-1] for one in made.findings if one.rule.code == "B611"} == {"/app/.env", "/srv/a.pem"}
        assert {one.key for one in made.findings if one.rule.code == "B612"} == {"ENV HUB_TOKEN", "ENV INDEX", "ARG PASSWORD"}


def test_an_image_that_only_one_platform_can_start(project):
    _, made = built(project, "RUN rm /usr/local/bin/train")
    assert "B609" in [one.rule.code for one in made.findings if one.rule.severity.value == "note"]
    _, made = built(project, "RUN printf '#!/bin/sh' > /usr/local/bin/train && chmod 755 /usr/local/bin/train")
    assert "B609" not in [one.rule.code for one in made.findings]


def test_a_large_image(project, monkeypatch):
    monkeypatch.setattr("ymir_exc.host._build_checks.LARGE_IMAGE_BYTES", 1 << 20)
    codes, _ = built(project)
    assert codes == {"B607"}


def test_what_is_ignored_is_not_in_the_image(project):
    """Our reading of .dockerignore and the engine's agree: what we count is what COPY finds."""
    for name in ("a.pem", "sub/b.pem", "sub/deep/c.txt", "keep/d.txt", "keep/no/e.txt", "x1.pt", "x22.pt", "data/raw/f.jpg", "data/g.jpg"):
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (project / ".dockerignore").write_text("# comment\n**/*.pem\nkeep/**\n!keep/d.txt\nx?.pt\n/data/*/\n!data/g.jpg\nimg-man/*.md\n")
    built(project, "COPY . /context/")
    listed = engine("run", "--rm", f"{NAME}:test", "find", "/context", "-type", "f").stdout.splitlines()
    ignored = _build_context.ignore_rules(project)
    ours = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    assert {path[len("/context/"):] for path in listed} == {name for name in ours if not ignored(name)}


def test_a_step_that_fails_leaves_no_container(project):
    before = engine("ps", "-aq").stdout
    with pytest.raises(build.BuildError, match="could not build"):
        built(project, "RUN exit 3")
    assert engine("ps", "-aq").stdout == before


@pytest.mark.parametrize("number,status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_leaves_no_container(project, number, status):
    with (project / "Dockerfile").open("a") as file:
        file.write("\nRUN sleep 120\n")
    before = engine("ps", "-aq").stdout
    words = [sys.executable, "-m", "ymir_exc", "build", str(project), "--tag", f"{NAME}:stopped"]
    process = subprocess.Popen(words, start_new_session=True)
    ends = time.monotonic() + 120
    while "sleep 120" not in engine("ps", "--no-trunc").stdout:
        assert process.poll() is None and time.monotonic() < ends
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(60) == status
    while engine("ps", "-aq").stdout != before:    # the engine clears up by itself, when its client has gone
        assert time.monotonic() < ends
        time.sleep(0.1)


def command(*words):
    return subprocess.run([sys.executable, "-m", "ymir_exc", "build", *words], capture_output=True, text=True, encoding="utf-8")


def test_the_command(project):
    done = command(str(project), "-t", f"{NAME}:command", "--json")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    assert (written["tag"], written["tasks"]) == (f"{NAME}:command", ["training", "mining", "infer"])
    assert written["commands"][0][0] == "docker"
    (project / "Dockerfile").write_text(f"FROM {NAME}:command\nRUN rm -r /img-man\n")
    done = command(str(project), "-t", f"{NAME}:command", "-q")
    assert done.returncode == 4
    assert "error: B601" in done.stdout
