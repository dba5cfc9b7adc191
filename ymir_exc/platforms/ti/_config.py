"""What Tencent TI writes below `/opt/ml/input/config`: hyper-parameters, hosts and channels (contract 1.2, 1.3).

Each file may be missing. One that is there and wrong is a `ConfigError` that names the file and the key.
"""
from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from ymir_exc.errors import ConfigError

RESERVED_PREFIX = "ti_"
TASK_KEY = "ymir_task"
LONE_HOST = "localhost"
_MAX_BYTES = 16 << 20
_MAX_DEPTH = 100
_RESOURCE_NAMES = ("resourceconfig.json", "resourceConfig.json")    # the one that TI writes, and the one that its documents name


class Layout(NamedTuple):
    """The folders of a job below one root, `/opt/ml`."""

    root: str

    def path(self, *parts: str) -> str:
        """A place below the root."""
        return os.path.join(self.root, *parts)

    @property
    def config(self) -> str:
        """Where the platform describes the job."""
        return self.path("input", "config")

    @property
    def data(self) -> str:
        """A folder for each channel."""
        return self.path("input", "data")

    @property
    def code(self) -> str:
        """Where the platform unpacks what the user sent along."""
        return self.path("code")

    @property
    def model(self) -> str:
        """What is uploaded as the model."""
        return self.path("model")

    @property
    def output(self) -> str:
        """Where `failure` and `success` belong."""
        return self.path("output")

    @property
    def results(self) -> str:
        """Results other than models."""
        return self.path("output", "data")

    @property
    def monitor(self) -> str:
        """Progress, and the reason of a failure."""
        return os.path.join(self.results, "monitor.txt")

    @property
    def tensorboard(self) -> str:
        """TI shows what lies below `output/checkpoints` while the job runs."""
        return self.path("output", "checkpoints", "tensorboard")


class Hosts(NamedTuple):
    """Who takes part.

    Attributes:
        names: In the order of the file, never sorted: rank is the position, and the first one is the master.
        current: This host, one of them.
        interface: The network interface that the file names; '' without one.
    """

    names: Tuple[str, ...]
    current: str
    interface: str = ""


class Job(NamedTuple):
    """What the platform says about a job.

    Attributes:
        file: hyperparameters.json, for messages.
        given: The hyper-parameters as they stand in the file, in its order.
        values: The same with one level of JSON text decoded.
        hosts: Who takes part.
        channels: Name to folder, in the order of the file.
        warnings: What the user is to hear of.
    """

    file: str
    given: Mapping[str, Any]
    values: Mapping[str, Any]
    hosts: Hosts
    channels: Mapping[str, str]
    warnings: Tuple[str, ...]

    def user_values(self, *prefixes: str) -> Dict[str, Any]:
        """The hyper-parameters that are meant for the program: not the platform's own, nor those that begin otherwise as given."""
        hidden = (RESERVED_PREFIX, *prefixes)
        return {key: value for key, value in self.values.items() if not key.startswith(hidden) and key != TASK_KEY}

    def text(self, key: str) -> str:
        """A hyper-parameter of the platform as text; '' without one.

        Raises:
            ConfigError: It is no text.
        """
        value = self.values.get(key, "")
        if isinstance(value, (bool, int, float)) and isinstance(self.given[key], str):    # a name that only looks like a number
            return str(self.given[key])
        if value is None or isinstance(value, str):
            return value or ""
        raise ConfigError(f"{self.file}: {key}: {value!r:.80} is no text")


def read(layout: Layout, environ: Mapping[str, str]) -> Job:
    """Read all of it.

    Args:
        layout: Where the files lie.
        environ: The process's environment variables; newer TI-ONE describes hosts by these alone.

    Raises:
        ConfigError: A file is not as it should be.
    """
    warnings: List[str] = []
    path = os.path.join(layout.config, "hyperparameters.json")
    given = read_object(path) or {}
    values = {key: decode(value, f"{path}: {key}") for key, value in given.items()}
    for key, value in values.items():
        if _is_deep(value):
            raise ConfigError(f"{path}: {key}: nested deeper than {_MAX_DEPTH} levels", hint="no hyper-parameter is")
    return Job(path, given, values, _read_hosts(layout, environ, warnings), _read_channels(layout), tuple(warnings))


# ------------------------------------------------------------------------------------------------------------------------- JSON

def decode(value: Any, place: str) -> Any:
    """One level of the platform's encoding undone: text that is JSON becomes its value, all else stays (contract 1.3).

    Args:
        value: As the file has it: mostly text, at times typed already.
        place: What to call it in messages.

    Raises:
        ConfigError: The text is an object in which a key is there twice.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, object_pairs_hook=_without_doubles)
    except _DoubledKey as e:
        raise ConfigError(f"{place}: the key {e.key!r} is there twice") from None
    except (ValueError, RecursionError):
        return value


def is_yes(value: Any) -> bool:
    """Whether a hyper-parameter or an environment variable switches something on; one that is not there does not."""
    return str(value).strip().lower() in ("1", "true", "yes", "on")


def read_object(path: str) -> Optional[Dict[str, Any]]:
    """Read a JSON object; None when there is no such file.

    Raises:
        ConfigError: It cannot be read, is no JSON object, or has a key twice.
    """
    try:
        with open(path, "rb") as f:
            data = f.read(_MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}", hint="the container's user must be able to read it") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_BYTES >> 20} MiB", hint="no configuration is that large")
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_doubles)
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}, line {data.count(10, 0, e.start) + 1}: not UTF-8 text", hint="save the file as UTF-8") from None
    except _DoubledKey as e:
        raise ConfigError(f"{path}: the key {e.key!r} is there twice") from None
    except json.JSONDecodeError as e:
        raise ConfigError(f"{path}, line {e.lineno}: not valid JSON: {e.msg}" if data.strip() else f"{path} is empty",
                          hint="a JSON object is wanted, such as {}") from None
    except (ValueError, RecursionError) as e:    # a number of too many digits, or nested too deeply
        raise ConfigError(f"{path}: not valid JSON: {e}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a JSON object is wanted, not {_kind(value)}")
    return value


class _DoubledKey(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _without_doubles(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen = set()
        raise _DoubledKey(next(key for key, _ in pairs if key in seen or seen.add(key)))    # type: ignore[func-returns-value]
    return made


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        level = [item for one in level if isinstance(one, (dict, list)) for item in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return False
    return True


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


# ------------------------------------------------------------------------------------------------------------------------ hosts

def _read_hosts(layout: Layout, environ: Mapping[str, str], warnings: List[str]) -> Hosts:
    first, second = (os.path.join(layout.config, name) for name in _RESOURCE_NAMES)
    found = [(path, value) for path, value in ((path, read_object(path)) for path in (first, second)) if value is not None]
    if not found:
        return _hosts_of_variables(environ)
    if len(found) == 2 and found[0][1] != found[1][1]:
        warnings.append(f"{first} and {_RESOURCE_NAMES[1]} differ; the former counts")
    return _hosts_of_file(*found[0], environ)


def _hosts_of_file(path: str, value: Mapping[str, Any], environ: Mapping[str, str]) -> Hosts:
    current, names = value.get("current_host"), value.get("hosts")
    if current is not None and not isinstance(current, str):
        raise ConfigError(f"{path}: current_host: text is wanted, not {current!r:.80}")
    if names is None:
        names = [current or LONE_HOST]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{path}: hosts: a list of names is wanted, not {names!r:.80}")
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: hosts: a name is there twice: {names!r:.200}")
    interface = value.get("network_interface_name", "")
    if interface is not None and not isinstance(interface, str):
        raise ConfigError(f"{path}: network_interface_name: text is wanted, not {interface!r:.80}")
    if value.get("mpi_operator_submit") is True or (not current and len(names) > 1):
        current = names[_index(environ, len(names), path)]
    current = current or names[0]
    if current not in names:
        raise ConfigError(f"{path}: current_host {current!r} is none of hosts: {names!r:.200}")
    return Hosts(tuple(names), current, interface or "")


def _hosts_of_variables(environ: Mapping[str, str]) -> Hosts:
    """Those of newer TI-ONE, which tells them in variables; without these there is one host."""
    if not environ.get("NODE_LIST"):
        return Hosts((LONE_HOST,), LONE_HOST)
    from ymir_exc import hosts
    layout = hosts.read({name: environ.get(name, "") for name in ("NODE_LIST", "INDEX")})
    return Hosts(layout.hosts, layout.current)


def _index(environ: Mapping[str, str], count: int, source: str) -> int:
    text = environ.get("INDEX", "").strip()
    if text.isdecimal() and int(text) < count:
        return int(text)
    raise ConfigError(f"{source} names {count} hosts, and the environment variable INDEX is {text!r}: which one is this?",
                      hint=f"INDEX is to be a number from 0 to {count - 1}")


# --------------------------------------------------------------------------------------------------------------------- channels

def _read_channels(layout: Layout) -> Dict[str, str]:
    path = os.path.join(layout.config, "inputdataconfig.json")
    listed = read_object(path)
    if listed is not None:
        for name in listed:
            if not name or name in (".", "..") or "/" in name or "\0" in name:
                raise ConfigError(f"{path}: {name!r} is no channel's name")
        return {name: os.path.join(layout.data, name) for name in listed}
    try:
        with os.scandir(layout.data) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return {}
    return {name: os.path.join(layout.data, name) for name in names}
