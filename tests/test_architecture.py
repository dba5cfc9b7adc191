"""The import rules of DESIGN.md, read from the code; and what importing costs."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ymir_exc"

L0 = {"__init__", "_version", "settings", "code", "errors", "_files"}
L1 = {"_yaml", "_models", "_annotations", "_rle", "env", "dataset_reader", "result_writer", "monitor"}
L1_SHARED = {"_yaml", "_models", "_annotations", "_rle", "env"}
L2 = {"util", "executor", "sysinfo", "supervisor", "dataset_convert", "mining", "platforms", "integrations"}
L3 = {"host"}
L4 = {"cli", "__main__"}
LAYER = {name: level for level, names in enumerate((L0, L1, L2, L3, L4)) for name in names}
FRAMEWORKS = {"torch", "tensorflow", "mmcv", "mmengine", "ultralytics", "lightning"}
OPTIONAL = {"numpy", "PIL", "tensorboard", "pycocotools", "rich", "jinja2", "orjson"} | FRAMEWORKS

# What L0 may use; Python tells its own modules from 3.10 on, so they are named.
STDLIB = {"__future__", "_thread", "contextlib", "enum", "errno", "fcntl", "os", "re", "shutil", "stat", "threading", "typing", "warnings"}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].replace(".py", "")


def imports(path: Path):
    """(module, whether at the top of the file and not for type checkers)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {id(n) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
                   for n in ast.walk(node)}
    inside = {id(n) for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        at_top = id(node) not in inside
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_top
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", at_top


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path):
    own = room(path)
    assert own in LAYER, f"{own} has no layer: give it one here and in DESIGN.md"
    level = LAYER[own]
    for name, at_top in imports(path):
        parts = name.split(".")
        if parts[0] == "ymir_exc" and len(parts) > 1 and parts[1] in LAYER and parts[1] != own:
            other = parts[1]
            assert LAYER[other] <= level, f"{own} (L{level}) imports {other} (L{LAYER[other]})"
            if level == 1 and LAYER[other] == 1:
                assert other in L1_SHARED, f"{own} imports its neighbour {other}"
        elif level == 0:
            assert parts[0] in STDLIB, f"{own} (L0) imports {name}"
        if level <= 2 and at_top:
            assert parts[0] not in OPTIONAL - ({"numpy"} if own == "mining" else set()), f"{own} imports {name} at the top of the file"
        if own == "mining":
            assert parts[0] != "ymir_exc" or parts[1] in {"mining", "errors", "_yaml"}, f"mining imports {name}: it is arithmetic alone"
        if level <= 1:
            assert parts[0] not in FRAMEWORKS | {"easydict"}, f"{own} (L1) imports {name}"
        if level == 3:
            assert parts[0] not in FRAMEWORKS, f"{own} (L3) imports {name}"


def loaded_by(statement: str):
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["", ".env", ".settings", ".code", ".errors", ".monitor", ".result_writer", ".dataset_reader",
                                    ".util", ".executor", ".dataset_convert", ".cli", ".supervisor", ".sysinfo"])
def test_importing_is_light(module):
    loaded = loaded_by(f"import ymir_exc{module}")
    assert not loaded & (OPTIONAL | {"pydantic", "asyncio", "easydict"} - ({"easydict"} if module in (".util", ".executor") else set()))


def test_mining_is_numpy_alone():
    assert loaded_by("import ymir_exc.mining") & (OPTIONAL | {"pydantic", "easydict", "yaml"}) == {"numpy"}


def test_the_rule_is_not_vacuous():
    assert len(modules()) > 15
    assert "yaml" in loaded_by("from ymir_exc import env; env.load_mapping; import yaml")
    assert "pydantic" in loaded_by("from ymir_exc import env; env.EnvConfig(run_training='yes')")
