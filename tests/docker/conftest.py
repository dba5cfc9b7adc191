"""Real images, real containers. `make test ENGINE=docker` builds the images first."""
from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import pytest

from ymir_exc.host import sample, workspace

BASE, DEMO = "ymir-exc", "ymir-exc-det-demo"
PLAIN = "ymir-exc-test-ti-plain"
TEMPLATES = Path(__file__).resolve().parents[2] / "det-demo-tmi" / "img-man"
UID = "1234:1234"    # no such user in the image, as on the platform


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.docker)


def engine(*args: str, **options):
    return subprocess.run(["docker", *args], capture_output=True, text=True, **options)


@pytest.fixture(scope="session", autouse=True)
def images():
    for name in (BASE, DEMO):
        done = engine("image", "inspect", name)
        assert done.returncode == 0, f"{done.stderr.strip()}: run the container tests with `make test ENGINE=docker`"


@pytest.fixture(scope="session")
def plain_image():
    """A decision tree, whose program knows nothing of this package."""
    context = Path(__file__).parent / "plain"
    done = engine("build", "--network", "host", "--build-arg", f"BASE_IMAGE={BASE}", "--tag", PLAIN, str(context))
    assert done.returncode == 0, done.stdout + done.stderr
    yield PLAIN
    engine("rmi", "--force", PLAIN)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A dataset below a folder whose name has a space and Chinese letters."""
    root = tmp_path_factory.mktemp("docker") / "a dataset 数据"
    sample.write_sample(root, images=120, candidates=24)
    for folder in (root, *root.parents):    # a container's uid must be able to enter
        if folder.stat().st_uid == os.getuid() and len(folder.parts) > 2:
            folder.chmod(folder.stat().st_mode | 0o055)
    return root


@pytest.fixture
def prepare(tmp_path, data):
    """Lay out a task for a container; its name is new each time."""
    def make(*tasks: str, root: str = "task", **options):
        options.setdefault("templates", TEMPLATES)
        return workspace.prepare(tmp_path / root, data, tasks or ["training"], in_container=True,
                                 task_id=f"t{uuid.uuid4().hex[:29]}", **options)
    return make
