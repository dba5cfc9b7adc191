"""What a program is told beside its files: the TM_* variables, their SM_* twins, and arguments (contract 1.4, 1.5)."""
from __future__ import annotations

import json
import os
import re
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ymir_exc.errors import ConfigError
from ymir_exc.platforms.ti._config import Job, Layout, is_yes

ARGUMENTS_VARIABLE = "YMIR_EXC_TI_ARGUMENTS"
SAGEMAKER_VARIABLE = "YMIR_EXC_TI_SAGEMAKER"
SAGEMAKER_KEY = "ti_sagemaker"
_SAGEMAKER_PREFIXES = ("sagemaker_", "_tuning_objective_metric")
_MAX_WORD = 128 << 10    # Linux takes no longer argument or variable, its end included
_DEFAULT_LOG_LEVEL = 20
_DEFAULT_INTERFACE = "eth0"
_INTERFACES = "/sys/class/net"


class Told(NamedTuple):
    """What a program is told.

    Attributes:
        variables: Environment variables.
        arguments: What to append to its command.
        warnings: What could not be told, and why.
    """

    variables: Dict[str, str]
    arguments: Tuple[str, ...]
    warnings: Tuple[str, ...]


def tell(layout: Layout, job: Job, environ: Mapping[str, str], entry: str, gpus: int) -> Told:
    """Make them.

    Args:
        layout: The job's folders.
        job: What the platform says.
        environ: The process's environment variables.
        entry: The user's script as the job names it; '' when the image's own program runs.
        gpus: How many GPUs this container may use.

    Raises:
        ConfigError: `YMIR_EXC_TI_ARGUMENTS` names no dialect.
    """
    warnings: List[str] = []
    dialect = environ.get(ARGUMENTS_VARIABLE) or ("ti" if entry else "none")
    if dialect not in DIALECTS:
        raise ConfigError(f"{ARGUMENTS_VARIABLE}={dialect} names no way to pass hyper-parameters", hint=f"one of {', '.join(DIALECTS)}")
    is_sagemaker = is_yes(environ.get(SAGEMAKER_VARIABLE)) or is_yes(job.values.get(SAGEMAKER_KEY))
    values = job.user_values(*(_SAGEMAKER_PREFIXES if is_sagemaker or dialect == "sagemaker" else ()))
    arguments = tuple(DIALECTS[dialect](_passable(values, dialect, warnings)))
    facts: Dict[str, Any] = {
        "MODEL_DIR": layout.model, "OUTPUT_DATA_DIR": layout.results, "INPUT_DIR": layout.path("input", ""),
        "INPUT_CONFIG_DIR": layout.config, "NUM_GPUS": gpus, "NUM_CPUS": os.cpu_count() or 1,
        "LOG_LEVEL": _log_level(job, warnings), "HOSTS": list(job.hosts.names), "CURRENT_HOST": job.hosts.current,
        "CHANNELS": list(job.channels), "HPS": values, "USER_ARGS": list(arguments), "USER_ENTRY_POINT": entry,
    }
    interface = _interface(job, environ, warnings)
    if interface:
        facts["NETWORK_INTERFACE_NAME"] = interface
    named = [*((f"CHANNEL_{name}", path) for name, path in job.channels.items()), *((f"HP_{key}", value) for key, value in values.items())]
    variables = _encoded("TM_", facts, named, json.dumps, warnings)
    if is_sagemaker:
        twins = {**facts, "INPUT_DIR": layout.path("input"), "CHANNELS": sorted(job.channels)}
        variables.update(_encoded("SM_", twins, named, _compact, []))
    return Told(variables, arguments, tuple(warnings))


# --------------------------------------------------------------------------------------------------------------------- variables

def _encoded(prefix: str, facts: Mapping[str, Any], named: Sequence[Tuple[str, Any]], encode: Callable[[Any], str],
             warnings: List[str]) -> Dict[str, str]:
    """Text as it is, all else as JSON.

    A name is only put in upper case, as other toolkits do; one that no shell can read gets a second spelling, with `_` for what is odd.
    """
    variables: Dict[str, str] = {}
    spelt = [(name.upper(), value) for name, value in named]
    plain = [(re.sub(r"\W", "_", name, flags=re.ASCII), value) for name, value in spelt]
    for name, value in [*facts.items(), *spelt, *plain]:
        text = value if isinstance(value, str) else encode(value)
        if f"{prefix}{name}" in variables:
            continue
        problem = "its name cannot be a variable's" if "=" in name else _problem(f"{prefix}{name}={text}")
        if problem:
            warnings.append(f"the environment variable {prefix + name!r:.80} is not set: {problem}")
        else:
            variables[f"{prefix}{name}"] = text
    return variables


def _problem(word: str) -> str:
    """Why the system takes this as no argument and no variable; '' when it does."""
    try:
        length = len(os.fsencode(word))
    except UnicodeEncodeError:
        return "it holds a character that is no valid Unicode"
    if "\0" in word:
        return "it holds a NUL character"
    return f"it has {length} bytes, and {_MAX_WORD - 1} is the most" if length >= _MAX_WORD else ""


def _compact(value: Any) -> str:
    return "" if value is None else json.dumps(value, separators=(",", ":"), sort_keys=True)


def _log_level(job: Job, warnings: List[str]) -> int:
    value = job.values.get("ti_container_log_level", _DEFAULT_LOG_LEVEL)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    warnings.append(f"{job.file}: ti_container_log_level: {value!r:.80} is no number; {_DEFAULT_LOG_LEVEL} it is")
    return _DEFAULT_LOG_LEVEL


def _interface(job: Job, environ: Mapping[str, str], warnings: List[str]) -> str:
    """The network interface between hosts; '' when there is none of that name, because a wrong one makes programs hang."""
    asked = environ.get("OMPI_MCA_btl_tcp_if_include") or job.text("ti_network_interface_name") or job.hosts.interface
    if asked and _exists(asked):
        return asked
    if asked:
        warnings.append(f"there is no network interface {asked!r:.80} in this container")
    if len(job.hosts.names) > 1:
        from ymir_exc import hosts
        found = hosts.interface_of(hosts.Layout(job.hosts.names, job.hosts.names.index(job.hosts.current)))
        if found:
            return found
    return _DEFAULT_INTERFACE if _exists(_DEFAULT_INTERFACE) else ""


def _exists(interface: str) -> bool:
    return "/" not in interface and os.path.exists(os.path.join(_INTERFACES, interface))


# --------------------------------------------------------------------------------------------------------------------- arguments

def _passable(values: Mapping[str, Any], dialect: str, warnings: List[str]) -> Dict[str, Any]:
    """Without what cannot be an argument."""
    kept = {}
    for key, value in values.items() if dialect != "none" else ():
        problem = next(filter(None, map(_problem, DIALECTS[dialect]({key: value}))), "")
        if problem:
            warnings.append(f"the hyper-parameter {key!r:.80} is not passed as an argument: {problem}")
        else:
            kept[key] = value
    return kept


def _none(_: Mapping[str, Any]) -> List[str]:
    return []


def _ti(values: Mapping[str, Any]) -> List[str]:
    """As TI's own toolkit: the order of the file, what Python prints for a value, and an empty text as a flag."""
    words: List[str] = []
    for key, value in values.items():
        words.append(f"--{key}")
        if value != "":
            words.append(str(value))
    return words


def _json(values: Mapping[str, Any]) -> List[str]:
    """In the order of the file; text as it is, all else as JSON."""
    words: List[str] = []
    for key, value in values.items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]
    return words


def _sagemaker(values: Mapping[str, Any]) -> List[str]:
    """As SageMaker's toolkit: sorted, one dash before one letter, an object as `key=value,...`, nothing for null."""
    words: List[str] = []
    for key in sorted(values):
        value = values[key]
        if isinstance(value, dict):
            text = ",".join(f"{name}={item}" for name, item in value.items())
        else:
            text = "" if value is None else str(value)
        words += [f"-{key}" if len(key) == 1 else f"--{key}", text]
    return words


DIALECTS: Mapping[str, Callable[[Mapping[str, Any]], List[str]]] = {"ti": _ti, "sagemaker": _sagemaker, "json": _json, "none": _none}
