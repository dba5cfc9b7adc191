"""The import rules of DESIGN.md, read from the code; and what importing costs."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ymir_exc"

L0 = {"__init__", "_version", "settings", "code", "errors", "_files"}
L1 = {"_yaml", "_models", "_annotations", "_rle", "env", "dataset_reader", "result_writer", "monitor", "images"}
L1_SHARED = {"_yaml", "_models", "_annotations", "_rle", "env", "images"}
L2 = {"util", "executor", "sysinfo", "supervisor", "dataset_convert", "mining", "platforms", "integrations", "evaluation", "sharding",
      "smoke", "hosts"}
L3 = {"host", "ti"}
L4 = {"cli", "commands", "__main__"}
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
        if own == "host":
            assert name.split(".")[:2] != ["ymir_exc", "ti"], f"host imports {name}: ti stands on host, not the other way round"
        if own == "ti":
            assert not at_top or parts[0] not in OPTIONAL | {"qcloud_cos"}, f"ti imports {name} at the top of the file"


FORBIDDEN = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "eval", "exec", "compile", "yaml.unsafe_load",
             "yaml.full_load", "pickle.load", "marshal.load", "shelve.open"}


def dangers(tree: ast.AST):
    """Calls that give a name, a file's content or a weight file to a shell or to the interpreter."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func) if hasattr(ast, "unparse") else ""
        keywords = {word.arg: word.value for word in call.keywords}
        if name in FORBIDDEN or "shell" in keywords:
            yield name
        if name.endswith("yaml.load") and "Loader" not in keywords and len(call.args) < 2:
            yield name
        if name == "torch.load" and getattr(keywords.get("weights_only"), "value", None) is not True:
            yield name


@pytest.mark.parametrize("path", [*modules(), *sorted(PACKAGE.parent.glob("det-demo-tmi/**/*.py"))], ids=lambda p: p.name)
def test_no_shell_and_nothing_from_a_file_is_executed(path):
    assert list(dangers(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.skipif(sys.version_info < (3, 9), reason="ast.unparse")
@pytest.mark.parametrize("code", ["os.system('cp a b')", "subprocess.run(c, shell=True)", "yaml.load(f)", "torch.load(p)", "exec(code)"])
def test_a_danger_is_seen(code):
    assert list(dangers(ast.parse(code)))


def loaded_by(statement: str):
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["", ".env", ".settings", ".code", ".errors", ".monitor", ".result_writer", ".dataset_reader",
                                    ".util", ".executor", ".dataset_convert", ".cli", ".supervisor", ".sysinfo", ".sharding",
                                    ".ti.session", ".ti.pytorch", ".ti.tensorflow"])
def test_importing_is_light(module):
    loaded = loaded_by(f"import ymir_exc{module}")
    assert not loaded & (OPTIONAL | {"pydantic", "asyncio", "easydict"} - ({"easydict"} if module in (".util", ".executor") else set()))


def test_mining_is_numpy_alone():
    assert loaded_by("import ymir_exc.mining") & (OPTIONAL | {"pydantic", "easydict", "yaml"}) == {"numpy"}


def test_the_rule_is_not_vacuous():
    assert len(modules()) > 15
    assert "yaml" in loaded_by("from ymir_exc import env; env.load_mapping; import yaml")
    assert "pydantic" in loaded_by("from ymir_exc import env; env.EnvConfig(run_training='yes')")
