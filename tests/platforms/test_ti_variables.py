"""The TM_* variables, their SM_* twins, and the ways to pass hyper-parameters as arguments."""
from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ymir_exc.errors import ConfigError
from ymir_exc.platforms.ti import _variables, visible_gpus

MIXED = {"zeta": "1", "k": "1", "tied": "true", "empty": "", "n": "null", "items": "[1, 2]", "cfg": '{"a": 1, "b": true}', "text": "a b"}


def told(job, entry="train.py", gpus=0, **environ):
    return _variables.tell(job.layout, job.read(), environ, entry, gpus)


def dialect(job, name):
    return list(told(job.hyper(**MIXED), YMIR_EXC_TI_ARGUMENTS=name).arguments)


def test_arguments_as_ti(job):
    wanted = ["--zeta", "1", "--k", "1", "--tied", "True", "--empty", "--n", "None", "--items", "[1, 2]", "--cfg", "{'a': 1, 'b': True}",
              "--text", "a b"]
    assert dialect(job, "ti") == dialect(job, "") == wanted


def test_arguments_as_sagemaker(job):
    assert dialect(job, "sagemaker") == ["--cfg", "a=1,b=True", "--empty", "", "--items", "[1, 2]", "-k", "1", "-n", "", "--text", "a b",
                                         "--tied", "True", "--zeta", "1"]


def test_arguments_as_json(job):
    assert dialect(job, "json") == ["--zeta", "1", "--k", "1", "--tied", "true", "--empty", "", "--n", "null", "--items", "[1, 2]",
                                    "--cfg", '{"a": 1, "b": true}', "--text", "a b"]


def test_the_image_s_own_program_gets_no_arguments_unless_asked(job):
    assert told(job.hyper(a="1"), entry="").arguments == ()
    assert told(job, entry="", YMIR_EXC_TI_ARGUMENTS="ti").arguments == ("--a", "1")
    assert told(job, YMIR_EXC_TI_ARGUMENTS="none").arguments == ()
    with pytest.raises(ConfigError, match="one of ti, sagemaker, json, none"):
        told(job, YMIR_EXC_TI_ARGUMENTS="bash")


def test_every_variable(job, monkeypatch, tmp_path):
    monkeypatch.setattr(_variables, "_INTERFACES", str(tmp_path))
    (tmp_path / "eth0").touch()
    job.hyper(ti_program="train.py", lr="0.1", opt="adam", nested='{"a": [1]}', nothing="null", ti_container_log_level="10")
    job.write("resourceconfig.json", {"hosts": ["b", "a"], "current_host": "a"})
    job.write("inputdataconfig.json", {"train": {}, "my-val": {}})
    root, data = job.root, job.data
    arguments = ["--lr", "0.1", "--opt", "adam", "--nested", "{'a': [1]}", "--nothing", "None"]
    found = told(job, gpus=3)
    assert found.variables == {
        "TM_MODEL_DIR": f"{root}/model", "TM_OUTPUT_DATA_DIR": f"{root}/output/data", "TM_INPUT_DIR": f"{root}/input/",
        "TM_INPUT_CONFIG_DIR": f"{root}/input/config", "TM_NUM_GPUS": "3", "TM_NUM_CPUS": str(os.cpu_count()), "TM_LOG_LEVEL": "10",
        "TM_HOSTS": '["b", "a"]', "TM_CURRENT_HOST": "a", "TM_NETWORK_INTERFACE_NAME": "eth0", "TM_CHANNELS": '["train", "my-val"]',
        "TM_CHANNEL_TRAIN": f"{data}/train", "TM_CHANNEL_MY-VAL": f"{data}/my-val", "TM_CHANNEL_MY_VAL": f"{data}/my-val",
        "TM_HPS": '{"lr": 0.1, "opt": "adam", "nested": {"a": [1]}, "nothing": null}', "TM_HP_LR": "0.1", "TM_HP_OPT": "adam",
        "TM_HP_NESTED": '{"a": [1]}', "TM_HP_NOTHING": "null", "TM_USER_ARGS": json.dumps(arguments), "TM_USER_ENTRY_POINT": "train.py"}
    assert found.warnings == ()


def test_twins_for_sagemaker_s_programs(job):
    job.hyper(b="[1, 2]", a="null", sagemaker_program="x.py", _tuning_objective_metric="m")
    job.write("inputdataconfig.json", {"z": {}, "a": {}})
    assert not any(name.startswith("SM_") for name in told(job).variables)
    for found in (told(job, YMIR_EXC_TI_SAGEMAKER="1"), told(job.hyper(b="[1, 2]", a="null", ti_sagemaker="true"))):
        made = found.variables
        assert {name[3:] for name in made if name.startswith("SM_")} == {name[3:] for name in made if name.startswith("TM_")}
        assert (made["SM_CHANNELS"], made["SM_HPS"], made["SM_HP_A"]) == ('["a","z"]', '{"a":null,"b":[1,2]}', "")
        assert made["TM_CHANNELS"] == '["z", "a"]' and made["SM_INPUT_DIR"] == f"{job.root}/input"


def test_names_and_values_that_no_system_takes(job):
    """A real process is started with what is left of them."""
    odd = {"a=b": "1", "nul\0key": "1", "value": "nul\0", "lone": '"\\ud800"', "long": "x" * 200_000, "": "empty", "good": "名", "s p": "1"}
    found = told(job.hyper(**odd))
    script = "import os, sys; print(ascii([sys.argv[1:], dict(os.environ)]))"
    done = subprocess.run([sys.executable, "-c", script, *found.arguments], env={**os.environ, **found.variables}, capture_output=True,
                          text=True, check=True)
    arguments, environment = eval(done.stdout)
    assert arguments == ["--a=b", "1", "--", "empty", "--good", "名", "--s p", "1"]
    assert environment["TM_HP_GOOD"] == "名" and environment["TM_HP_S_P"] == "1" and environment["TM_HP_A_B"] == "1"
    assert all(any(name in text for text in found.warnings) for name in ("A=B", "NUL", "VALUE", "LONE", "LONG"))
    assert "TM_HPS" not in environment    # it has the long one


def test_a_network_interface_that_is_not_there_is_not_told(job, monkeypatch, tmp_path):
    monkeypatch.setattr(_variables, "_INTERFACES", str(tmp_path))
    name = "TM_NETWORK_INTERFACE_NAME"
    found = told(job.hyper(ti_network_interface_name="ethwe"))
    assert name not in found.variables and "'ethwe'" in found.warnings[0]
    (tmp_path / "eth0").touch()
    assert told(job).variables[name] == "eth0"
    (tmp_path / "ethwe").touch(), (tmp_path / "ib0").touch(), (tmp_path / "eth9").touch()
    assert told(job).variables[name] == "ethwe"
    assert told(job, OMPI_MCA_btl_tcp_if_include="ib0").variables[name] == "ib0"
    job.hyper().write("resourceconfig.json", {"network_interface_name": "eth9"})
    assert told(job).variables[name] == "eth9"
    assert told(job, OMPI_MCA_btl_tcp_if_include="../../..").variables[name] == "eth0"


def test_a_log_level_that_is_no_number(job):
    found = told(job.hyper(ti_container_log_level="loud"))
    assert found.variables["TM_LOG_LEVEL"] == "20" and "loud" in found.warnings[0]


@pytest.mark.parametrize("text,count", [("0,1", 2), ("3", 1), ("", 0), ("-1", 0), ("0,-1,1", 1), ("GPU-1b, MIG-2", 2), ("NoDevFiles", 0)])
def test_gpus_by_the_variable(text, count):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": text}) == count


@pytest.mark.parametrize("script,count", [
    ("printf 'GPU 0: X (UUID: GPU-1)\\n  MIG 1g Device 0: (UUID: MIG-2)\\nGPU 1: Y\\n'", 2), ("echo GPU 0; exit 9", 0),
    ("echo NVIDIA-SMI has failed", 0)])
def test_gpus_by_the_driver_s_tool(tmp_path, monkeypatch, script, count):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n[ \"$1\" = --list-gpus ] || exit 3\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus({}) == count
    monkeypatch.setenv("PATH", "/nowhere")
    assert visible_gpus({}) == 0
