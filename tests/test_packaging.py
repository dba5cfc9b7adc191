"""The wheel and the source archive install and work."""
from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import ymir_exc

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], check=True, capture_output=True)
    return out


def test_names_and_contents(built):
    version = ymir_exc.__version__
    assert sorted(p.name for p in built.iterdir()) == [f"ymir_exc-{version}-py3-none-any.whl", f"ymir_exc-{version}.tar.gz"]
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        metadata = wheel.read(next(n for n in names if n.endswith("METADATA"))).decode()
    files = [path for pattern in ("*.py", "assets/**/*") for path in (ROOT / "ymir_exc").rglob(pattern) if path.is_file()]
    sources = {str(path.relative_to(ROOT)) for path in files} | {"ymir_exc/py.typed"}
    assert {n for n in names if not n.startswith("ymir_exc-")} == sources
    needs = [line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert sorted(n.split(">")[0].split("<")[0] for n in needs) == ["easydict", "pydantic", "pyyaml", "tensorboard"]
    assert "Requires-Python: >=3.8" in metadata
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        wanted = {f"ymir_exc-{version}/{name}" for name in (
            "LICENSE", "README.md", "README_zh-CN.md", "DESIGN.md", "pyproject.toml", "ymir_exc/env.py", "tests/conftest.py",
            "det-demo-tmi/app/start.py")}
        assert wanted <= set(archive.getnames())


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_installs_and_works(built, tmp_path, kind):
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-warn-script-location", "--target", str(tmp_path),
                    str(next(built.glob(kind)))], check=True, capture_output=True)
    program = ("import ymir_exc.cli, sys; print(ymir_exc.__file__, flush=True); "
               "sys.exit(ymir_exc.cli.main(['run', '--', 'echo', 'it runs']))")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path,
                          env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert done.stdout == f"{tmp_path}/ymir_exc/__init__.py\nit runs\n"
    assert (tmp_path / "bin" / "ymir-exc").exists()
