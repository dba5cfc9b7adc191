"""What the READMEs show works, and both show the same."""
from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract import platform_rules
from ymir_exc.errors import YmirError

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "README_zh-CN.md")


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str):
    return re.findall(rf"```{language}\n(.*?)```", text(page), re.DOTALL)


def without_comments(code: str) -> str:
    return re.sub(r"\s*#.*", "", code)


@pytest.mark.parametrize("page", PAGES)
def test_the_program_keeps_the_contract(page, platform, tmp_path):
    program = tmp_path / "start.py"
    program.write_text(blocks(page, "python")[0], encoding="utf-8")
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}

    def run():
        argv = [sys.executable, "-m", "ymir_exc", "run", "--", sys.executable, str(program)]
        subprocess.run(argv, env=environ, check=True, capture_output=True)

    platform.config["epochs"] = "3"
    platform.write()
    for epoch in range(3):
        platform.model(f"epoch_{epoch}/best.pt")
    run()
    assert len(platform_rules.accept_training(platform.out).stages) == 3
    candidates = ["/in/assets/a.jpg", "/in/assets/b.jpg"]
    platform.index("candidate", *candidates)
    platform.run("mining", "infer")
    run()
    platform_rules.accept_mining(platform.out, candidates)
    platform_rules.accept_detection(platform.out, candidates, platform.config["class_names"])
    platform_rules.accept_monitor(platform.out, final="done")


SHOWS_PROGRESS = """
from ymir_exc import monitor
write = monitor.write_monitor_logger
monitor.write_monitor_logger = lambda percent: (print(percent), write(percent))
"""


@pytest.mark.parametrize("page", PAGES)
def test_the_streaming_program_keeps_the_contract(page, platform):
    candidates = ["/in/assets/a.jpg", "/in/assets/b.jpg"]
    platform.index("candidate", *candidates)
    platform.config["model_params_path"] = [str(platform.input / "models/best.pt")]
    (platform.input / "models/best.pt").write_bytes(b"weights")
    platform.run("mining", "infer")
    program = SHOWS_PROGRESS + next(code for code in blocks(page, "python") if "InferResultWriter" in code)
    environ = {**os.environ, "DEFAULT_ENV_FILE_PATH": str(platform.env_file)}
    done = subprocess.run([sys.executable, "-c", program], env=environ, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["0.5", "1.0", "1.0"]    # of both tasks together
    platform_rules.accept_mining(platform.out, candidates)
    found = platform_rules.accept_detection(platform.out, candidates, platform.config["class_names"])
    assert [box["box"] for box in found["a.jpg"]] == [{"x": 10, "y": 21, "w": 30, "h": 39}]


@pytest.mark.parametrize("language", ["python", "sh", "dockerfile"])
def test_both_languages_show_the_same(language):
    english, chinese = (list(map(without_comments, blocks(page, language))) for page in PAGES)
    assert english == chinese
    assert english


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "DESIGN.md", "det-demo-tmi/README.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", text(page)):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_targets_of_make_exist(page):
    makefile = text("Makefile")
    for target in re.findall(r"make ([a-z-]+)", text(page)):
        if f"`make {target}" in text(page) or f"\nmake {target}" in text(page):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_table_of_codes_is_complete():
    codes = {str(int(kind.return_code)) for kind in (YmirError, *all_below(YmirError))}
    for page in PAGES:
        assert codes == set(re.findall(r"\b(?:300\d{3}|160004)\b", text(page).split("| 0 |")[1]))


def all_below(kind):
    for one in kind.__subclasses__():
        yield one
        yield from all_below(one)
