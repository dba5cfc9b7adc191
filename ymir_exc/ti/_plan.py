"""What a job looks like: the files below /opt/ml of each host, and the command lines that start its containers."""
from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import stat
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set, Tuple

from ymir_exc import _files
from ymir_exc.errors import StorageError
from ymir_exc.supervisor._run import GRACE_VARIABLE
from ymir_exc.ti._record import Folder, Spec

ROOT = "/opt/ml"
LABEL = "ymir-exc.ti"
CODE = f"{ROOT}/code"
_LOG = logging.getLogger(__name__)

_LABEL_CHARACTERS = 63
"""What a container's name may have at most. The engine cannot tell a longer one to whoever asks for the name of an address, as torch does
on each connection: it then waits for ten seconds."""

_LAST_SECONDS = 2
"""Of the time after a stop, what a supervisor in the container needs for its own words when the program has used up its share."""


def hosts_of(count: int) -> List[str]:
    """`algo-1`, `algo-2`, ...: the master first, and never sorted."""
    return [f"algo-{n + 1}" for n in range(count)]


def network(spec: Spec) -> str:
    """The job's network."""
    return f"ymir-ti-{spec.unique}"


def container(spec: Spec, host: str) -> str:
    """A host's container: unique to the job, and recognised by a person who lists containers."""
    before, after = f"ymir-ti-{spec.unique}-", f"-{host}"
    told = "".join(c for c in spec.name if c.isascii()).strip("_-")[:_LABEL_CHARACTERS - len(before) - len(after)].rstrip("_-")
    return f"{before}{told}{after}" if told else f"{before}{host}"


# ----------------------------------------------------------------------------------------------------------------- the files


def lay_out(spec: Spec, folder: Folder) -> None:
    """Make what each host sees below /opt/ml. The containers' uid may be any, so it may write wherever a program may."""
    for host in spec.hosts:
        top = folder.hosts / host
        for name in ("input/config", "input/data", "model", "output/data", "output/checkpoints"):
            _files.make_folder(top / name)
        _write(top / "input" / "config", spec, host)
        for channel in spec.channels:
            _files.make_folder(top / "input" / "data" / channel)
        _open(top / "input", 0o555, 0o444)
        if spec.script:
            shutil.copytree(folder.code, top / "code", symlinks=True)
            _open(top / "code", 0o777, 0o666)
        for name in ("model", "output", "output/data", "output/checkpoints"):
            with contextlib.suppress(OSError):
                (top / name).chmod(0o777)


def _open(top: Path, folders: int, files: int) -> None:
    """Allow what is below a folder to every uid, whatever the umask."""
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (folders if path.is_dir() else files))


def _write(config: Path, spec: Spec, host: str) -> None:
    cluster = json.dumps({"current_host": host, "hosts": spec.hosts}).encode("utf-8")
    inputs: Dict[str, Dict[str, Any]] = {name: {"TrainingInputMode": "File"} for name in spec.channels}
    for name, data in (("hyperparameters.json", json.dumps(spec.hyperparameters).encode("utf-8")),
                       ("resourceConfig.json", cluster), ("resourceconfig.json", cluster),    # both are in use
                       ("inputdataconfig.json", json.dumps(inputs).encode("utf-8"))):
        _files.write_bytes(config / name, data, sync=False)


def copy_code(source: Path, target: Path, jobs: Sequence[Path] = (), output: str = "") -> None:
    """The user's program as it is now; links stay links, as in the archive that the cloud gets.

    Args:
        source: Its file or folder.
        target: The folder of the copy.
        jobs: Folders that hold jobs, which would be copied into themselves.
        output: Where jobs leave their archives, which are no part of the program.

    Raises:
        StorageError: A file cannot be read, or there is no room.
    """
    if not source.is_dir():
        _files.copy_file(source, target / source.name)
        return
    top = os.path.realpath(source)
    ours = {os.path.realpath(path) for path in jobs}

    def ignored(folder: str, names: List[str]) -> Set[str]:
        at_output = bool(output) and os.path.realpath(folder) == os.path.realpath(output)
        return {name for name in names if name in ("__pycache__", ".git") or _is_left_out(os.path.join(folder, name), top, ours, at_output)}

    try:
        shutil.copytree(source, target, symlinks=True, ignore=ignored)
    except shutil.Error as e:
        _, _, why = e.args[0][0]
        raise StorageError(f"source_dir {source} cannot be copied: {why}", hint="each file in it must be readable") from e
    except OSError as e:
        raise _files.storage_error(target, e) from e


def _is_left_out(path: str, top: str, ours: Set[str], at_output: bool) -> bool:
    """Of what lies in the user's folder; what the program may miss is told."""
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        if os.path.isabs(os.readlink(path)) or os.path.commonpath([top, os.path.realpath(path)]) != top:
            _LOG.warning("%s leads out of source_dir: there is nothing behind it in the container", path)
    elif stat.S_ISDIR(mode):
        archives = (os.path.join(path, "output", name) for name in ("model.tar.gz", "output.tar.gz"))
        return os.path.realpath(path) in ours or (at_output and any(map(os.path.isfile, archives)))
    elif not stat.S_ISREG(mode):
        _LOG.warning("%s is no file, and not handed in", path)
        return True
    return False


def prepare_mounts(spec: Spec, folder: Folder) -> None:
    """A single file is mounted on a file: make it, because the folder around it is read-only to the containers."""
    for name, channel in spec.channels.items():
        path = path_of(spec, folder, name)
        if path.is_file():
            for host in spec.hosts:
                spot = folder.hosts / host / "input" / "data" / name / path.name
                _files.write_bytes(spot, b"", sync=False)
        elif not path.is_dir():
            raise FileNotFoundError(2, "No such file or directory", channel["uri"])


def path_of(spec: Spec, folder: Folder, channel: str) -> Path:
    """Where a channel lies on this machine; of one that is yet to be fetched, the folder that it will be in."""
    return Path(spec.channels[channel]["path"] or folder.downloads / channel)


# --------------------------------------------------------------------------------------------------------- the command lines


def commands(spec: Spec, folder: Folder) -> Tuple[List[str], List[List[str]], List[List[str]]]:
    """The words after the engine's name.

    Returns:
        What makes the network, what starts each host, and what removes them all.
    """
    names = [container(spec, host) for host in spec.hosts]
    make = ["network", "create", "--label", f"{LABEL}={spec.unique}", network(spec)]
    runs = [run_words(spec, folder, number) for number in range(len(spec.hosts))]
    return make, runs, [["rm", "--force", "--volumes", *names], ["network", "rm", network(spec)]]


def run_words(spec: Spec, folder: Folder, number: int) -> List[str]:
    """`run ... IMAGE train` of one host."""
    host = spec.hosts[number]
    top = folder.hosts / host
    words = ["run", "--name", container(spec, host), "--label", f"{LABEL}={spec.unique}", "--network", network(spec),
             "--network-alias", host, "--hostname", host, f"--shm-size={spec.shm_size}", f"--stop-timeout={spec.stop_timeout}"]
    if spec.user:
        words += (["--userns=keep-id"] if spec.engine.rpartition("/")[2] == "podman" else []) + ["--user", spec.user]
    if spec.gpus[number]:
        words += _gpu_words(spec.engine, spec.gpus[number])
    words += _mount(top / "input", f"{ROOT}/input", True)
    for name in spec.channels:
        path = path_of(spec, folder, name)
        words += _mount(path, f"{ROOT}/input/data/{name}" + (f"/{path.name}" if path.is_file() else ""), True)
    words += [*_mount(top / "model", f"{ROOT}/model"), *_mount(top / "output", f"{ROOT}/output"),
              *_mount(top / "output" / "checkpoints", f"{ROOT}/checkpoints")]
    if spec.script:
        words += [*_mount(top / "code", CODE), "--workdir", CODE]
    for key, value in _environment(spec).items():
        words += ["--env", f"{key}={value}"]
    return [*words, *spec.options, spec.image, "train"]


def _environment(spec: Spec) -> Dict[str, str]:
    grace = max(spec.stop_timeout - _LAST_SECONDS, spec.stop_timeout / 2)
    made = {"TRAINING_JOB_NAME": spec.name, "PYTHONUNBUFFERED": "1", GRACE_VARIABLE: f"{grace:g}"}
    if spec.user:
        made["HOME"] = "/tmp"    # noqa: S108 - of a uid without a name it is / otherwise, where nobody may write
    return {**made, **spec.envs}


def _gpu_words(engine: str, gpus: List[str]) -> List[str]:
    if engine.rpartition("/")[2] == "podman":
        return [word for gpu in gpus for word in ("--device", f"nvidia.com/gpu={gpu}")]
    return ["--gpus", f'"device={",".join(gpus)}"']


def _mount(source: Path, target: str, read_only: bool = False) -> List[str]:
    """By `--mount`, whose fields are those of a CSV file: a colon or a comma in a name does no harm."""
    fields = ["type=bind", f"source={source}", f"target={target}", *(["readonly"] if read_only else [])]
    return ["--mount", ",".join('"{}"'.format(f.replace('"', '""')) if any(c in f for c in ',"\n') else f for f in fields)]
