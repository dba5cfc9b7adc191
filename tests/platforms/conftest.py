"""An /opt/ml of Tencent TI in a temporary folder."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator

import pytest

from tests.supervised import Supervised
from ymir_exc.platforms.ti._config import Layout, read

INHERITED = ("NODE_LIST", "INDEX", "TI_PROGRAM", "TRAINING_JOB_NAME", "CUDA_VISIBLE_DEVICES", "OMPI_MCA_btl_tcp_if_include",
             "DEFAULT_ENV_FILE_PATH", "YMIR_EXC_PLATFORM", "YMIR_EXC_NO_TASK", "YMIR_EXC_TI_ARGUMENTS", "YMIR_EXC_TI_SAGEMAKER",
             "YMIR_EXC_TI_INSTALL")


class Job:
    """A job's folders, as the platform leaves them before the start."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config, self.data, self.code = root / "input/config", root / "input/data", root / "code"
        self.output, self.model = root / "output", root / "model"
        for folder in (self.config, self.data, self.code, self.output, self.model):
            folder.mkdir(parents=True)
        self.layout = Layout(str(root))

    def write(self, name: str, value: Any) -> Path:
        """A configuration file, from a value or from bytes."""
        path = self.config / name
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return path

    def hyper(self, **values: Any) -> Job:
        self.write("hyperparameters.json", values)
        return self

    def file(self, name: str, content: Any = b"") -> Path:
        """A file below the root."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def channel(self, channel: str, *names: str, **contents: Any) -> Path:
        """Files of a channel; what ends like an annotation has the content of an empty one."""
        folder = self.data / channel
        folder.mkdir(exist_ok=True)
        for name in names:
            self.file(f"input/data/{channel}/{name}", "<annotation></annotation>" if name.endswith(".xml") else "")
        for name, content in contents.items():
            self.file(f"input/data/{channel}/{name}", content)
        return folder

    def read(self, **environ: str) -> Any:
        return read(self.layout, environ)

    def failure(self) -> str:
        return (self.output / "failure").read_text(encoding="utf-8")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Below a folder whose name has a space and Chinese letters."""
    made = Job(tmp_path / "a job 任务" / "ml")
    for name in INHERITED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("YMIR_EXC_TI_ROOT", str(made.root))
    return made


@pytest.fixture
def train(job: Job) -> Iterator[Supervised]:
    """`ymir-exc run` in a process of its own, for that job."""
    class Train(Supervised):
        def environment(self, **more: str):
            kept = {name: value for name, value in super().environment().items() if name not in INHERITED}
            return {**kept, "YMIR_EXC_TI_ROOT": str(job.root), **more}

    made = Train(None, job.root)
    yield made
    made.close()
