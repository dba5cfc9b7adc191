"""A platform's folders for a test: `/in` and `/out` in a temporary directory, with env.yaml and config.yaml."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest
import yaml

from tests.supervised import Supervised
from ymir_exc import errors, settings


class Platform:
    """One task's folders; `write()` again after changing `env` or `config`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.input, self.out = root / "in", root / "out"
        for folder in (self.input / "assets", self.input / "annotations", self.input / "models", self.out / "models",
                       self.out / "tensorboard"):
            folder.mkdir(parents=True)
        inside = {
            "root_dir": self.input, "assets_dir": self.input / "assets", "annotations_dir": self.input / "annotations",
            "models_dir": self.input / "models", "config_file": self.input / "config.yaml",
            "training_index_file": self.input / "train-index.tsv", "val_index_file": self.input / "val-index.tsv",
            "candidate_index_file": self.input / "candidate-index.tsv",
        }
        outside = {
            "root_dir": self.out, "models_dir": self.out / "models", "tensorboard_dir": self.out / "tensorboard",
            "training_result_file": self.out / "models/result.yaml", "mining_result_file": self.out / "result.tsv",
            "infer_result_file": self.out / "infer-result.json", "monitor_file": self.out / "monitor.txt",
            "executor_log_file": self.out / "ymir-executor-out.log",
        }
        self.env: Dict[str, Any] = {
            "task_id": "t0", "protocol_version": "1.1.0", "run_training": True, "run_mining": False, "run_infer": False,
            "manifest_file": str(root / "img-man" / "manifest.yaml"),
            "input": {k: str(v) for k, v in inside.items()}, "output": {k: str(v) for k, v in outside.items()},
        }
        self.config: Dict[str, Any] = {"class_names": ["cat", "dog"], "gpu_id": "", "gpu_count": 0, "task_id": "t0",
                                       "export_format": "ark:raw"}
        self.env_file = self.input / "env.yaml"
        self.write()

    def write(self) -> Platform:
        self.env_file.write_text(yaml.safe_dump(self.env, allow_unicode=True), encoding="utf-8")
        (self.input / "config.yaml").write_text(yaml.safe_dump(self.config, allow_unicode=True), encoding="utf-8")
        return self

    def run(self, *tasks: str) -> Platform:
        for task in ("training", "mining", "infer"):
            self.env[f"run_{task}"] = task in tasks
        return self.write()

    def index(self, name: str, *lines: str) -> Path:
        path = self.input / f"{name}-index.tsv"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def model(self, name: str, content: bytes = b"weights") -> str:
        path = self.out / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return name

    def result(self) -> Any:
        return yaml.safe_load((self.out / "models/result.yaml").read_text(encoding="utf-8"))

    def monitor(self) -> str:
        return (self.out / "monitor.txt").read_text(encoding="utf-8")


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A training task in a folder whose name has a space and Chinese letters."""
    made = Platform(tmp_path / "a task 任务")
    monkeypatch.setattr(settings, "DEFAULT_ENV_FILE_PATH", str(made.env_file))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("YMIR_VERSION", raising=False)
    return made


@pytest.fixture(autouse=True)
def nothing_was_deprecated_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deprecated call warns once a process; each test is one."""
    monkeypatch.setattr(errors, "_deprecated", set())


@pytest.fixture
def memory_growth(platform: Platform) -> Callable[[str, int, int], float]:
    """Bytes of memory for each one more that a program's `act(count, end)` handles: what is held when it calls `end()`, and the most that
    is allocated after that, when a result is written for instance.

    Allocated, and not resident: pages of a file that is mapped are the kernel's to give away.
    """
    def growth(program: str, few: int, many: int) -> float:
        environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}
        script = f"{program}{_MEASURE}act({few}, int)\nbefore = memory({few})\nprint(memory({many}) - before)"
        done = subprocess.run([sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE, text=True, check=True)
        return int(done.stdout) / (many - few)

    return growth


_MEASURE = """
import tracemalloc
def memory(count):
    held = []
    def end():
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.clear_traces()
    tracemalloc.start()
    act(count, end)
    later = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return held[0] + later
"""


def pytest_configure():
    """A script's background job or nohup ignores signals, and what it starts would ignore them too."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_sessionfinish(session):
    """With NO_SKIPS a skipped test fails the run: one that CI skips does not exist."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("NO_SKIPS") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def supervised(platform: Platform) -> Iterator[Supervised]:
    """`ymir-exc run` in a process of its own, for the task of `platform`."""
    made = Supervised(platform.env_file, platform.root)
    yield made
    made.close()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Supervised]:
    """`ymir-exc run` in a process of its own, without any platform."""
    made = Supervised(None, tmp_path)
    yield made
    made.close()
