"""Judges files that a task is given or leaves, without running anything: `check` finds all that is wrong, each with its place and remedy.

`_training`, `_mining`, `_detection`, `_segmentation` and `_monitor` judge what a run left (`out/`), `_opt_ml` the same on Tencent TI;
`_dataset`, `_config` and `_templates` what it is given. They yield findings of the rules in `findings.RULES`; one that stumbles is a
finding itself, and the others go on.
"""
from __future__ import annotations

import importlib
import os
import pkgutil
import stat
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from ymir_exc.errors import EXIT_USAGE, YmirError
from ymir_exc.host.check import _context
from ymir_exc.host.check._text import printable
from ymir_exc.host.findings import RULES, Finding, Rule

KINDS = ("out", "in", "img-man", "config", "ti")
"""What can be judged: what a run left, what it is given, an image's templates, one config.yaml or env.yaml, and what was `/opt/ml`."""

OnProgress = Callable[[int, int], None]
"""Called with how much is done, and of how much; each part of a check counts its own."""

_OUT_NAMES = ("monitor.txt", "result.tsv", "infer-result.json", "models", "tensorboard", "ymir-executor-out.log")
_IN_NAMES = ("env.yaml", "config.yaml", "assets", "annotations", "train-index.tsv", "val-index.tsv", "candidate-index.tsv")
_RESULTS = ("models/result.yaml", "result.tsv", "infer-result.json")
_LOG = "ymir-executor-out.log"
_PENDING = 1
_OPT_ML = "opt-ml"    # as `ymir-exc verify` calls it
_TEMPLATES = ("manifest.yaml", "training-template.yaml", "mining-template.yaml", "infer-template.yaml")
_TYPE_FOLDERS = ("det", "semantic-seg", "instance-seg", "multi-modal")


class NothingToCheckError(YmirError):
    """The path is missing, or nothing there can be judged."""

    exit_code = EXIT_USAGE


def check(path: Path, *, kind: Optional[str] = None, on_progress: Optional[OnProgress] = None,
          counts: Optional[Dict[str, int]] = None) -> Iterator[Finding]:
    """Judge what lies at a path.

    Args:
        path: A folder `out`, `in` or `img-man`, one that holds some of these, one that was `/opt/ml`, or a configuration file.
        kind: One of `KINDS`; recognised from what lies there when None. In a folder that holds both `in` and `out`, these two are judged.
            An `out` with an `in` beside it is judged by what that asks for, also when it is given alone. In a folder of such runs each is.
        on_progress: See `OnProgress`.
        counts: Is filled with how many of what were looked at, such as `{"images": 12000}`.

    Yields:
        What is wrong, in the order of the files.

    Raises:
        NothingToCheckError: The path is missing, or nothing there is recognised.
    """
    return _each(list(_recognised(Path(path), kind)), on_progress, {} if counts is None else counts)


def check_output(out: Path, given: Optional[Path] = None, on_progress: Optional[OnProgress] = None,
                 counts: Optional[Dict[str, int]] = None) -> Iterator[Finding]:
    """Judge what a run left.

    Args:
        out: The task's `out` folder.
        given: The task's `in` folder. It tells which task it was, its classes and its candidates; without it, what can be judged alone is.
        on_progress: See `OnProgress`.
        counts: As of `check`.

    Yields:
        What is wrong, in the order of the files.
    """
    from ymir_exc.host.check import _output
    yield from _output.check_output(Path(out), None if given is None else Path(given), on_progress, {} if counts is None else counts)


def all_rules() -> Dict[str, Rule]:
    """Code to rule, of every check, in the order of the codes; those of images too, which `ymir-exc build` looks at."""
    for module in [f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)] + ["ymir_exc.host._build_checks"]:
        importlib.import_module(module)
    return {code: RULES[code] for code in sorted(RULES)}


def rules_of(kinds: Sequence[str]) -> List[Rule]:
    """The rules that apply to these kinds, in the order of the codes.

    Args:
        kinds: Some of `KINDS`.
    """
    letters = {"out": "TRDSM", "in": "IAPEC", "img-man": "N", "config": "EC", "ti": "OTRDSM"}
    wanted = "X" + "".join(letters[kind] for kind in kinds)
    return [rule for code, rule in all_rules().items() if code[0] in wanted]


def describe_rules() -> str:
    """The registry in Markdown: a table of all rules for each letter."""
    from ymir_exc.host.check._text import rules_in_markdown
    return rules_in_markdown(list(all_rules().values()))


def kinds_at(path: Path, kind: Optional[str] = None) -> List[str]:
    """What `check` judges at a path; arguments and errors as there."""
    return list(dict.fromkeys(found for found, _, _ in _recognised(Path(path), kind)))


def _recognised(path: Path, wanted: Optional[str]) -> Iterator[Tuple[str, Path, Optional[Path]]]:
    """Kind, where, and for an `out` the `in` beside it."""
    problem = _problem_at(path)
    if problem:
        raise NothingToCheckError(f"{printable(str(path))} {problem}",
                                  hint="give a folder out, in or img-man, one that holds them, or what was /opt/ml")
    if wanted is not None:
        name = _OPT_ML if wanted == "ti" else wanted
        is_held = os.path.isdir(path / name)
        if path.is_dir() == (wanted == "config"):
            raise NothingToCheckError(f"{path} is {'a folder' if path.is_dir() else 'no folder'}",
                                      hint="config is a file, all others are folders")
        found = path / name if is_held else path
        yield wanted, found, _given_beside(found) if wanted == "out" else None
    elif not path.is_dir():
        if path.suffix not in (".yaml", ".yml") or path.name == "result.yaml":
            raise NothingToCheckError(f"{path} is no config.yaml or env.yaml", hint="give the folder that it lies in")
        yield "config", path, None
    else:
        yield from _in_folder(path)


def _problem_at(path: Path) -> str:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as e:
        return f"cannot be read: {e.strerror}"
    return "cannot be read: Permission denied" if stat.S_ISDIR(mode) and not os.access(path, os.R_OK | os.X_OK) else ""


def _in_folder(path: Path) -> Iterator[Tuple[str, Path, Optional[Path]]]:
    held = [name for name in ("in", "out", "img-man") if os.path.isdir(path / name) and not (name == "out" and _is_unstarted(path / name))]
    for name in held:
        yield name, path / name, path / "in" if "in" in held and name == "out" else None
    if held:
        return
    from ymir_exc.host.check import _opt_ml
    tree = next((place for place in (path, path / _OPT_ML) if _opt_ml.is_tree(place)), None)
    if tree is not None:
        yield "ti", tree, None
    elif _holds(path, _TEMPLATES) or any(_holds(path / folder, _TEMPLATES) for folder in _TYPE_FOLDERS):
        yield "img-man", path, None
    elif _holds(path, _IN_NAMES):
        yield "in", path, None
    elif _holds(path, _OUT_NAMES):
        yield "out", path, _given_beside(path)
    else:
        runs = [run for run in sorted(path.iterdir()) if os.path.isdir(run / "in") and os.path.isdir(run / "out")]
        if not runs:
            raise NothingToCheckError(
                f"{path} holds nothing that can be checked; looked for in/, out/ and img-man/, for runs with in/ and out/, "
                f"for {', '.join(_OUT_NAMES)} as in out/, for {', '.join(_IN_NAMES)} as in in/, "
                f"for {', '.join(_TEMPLATES)} as in img-man/, and for input/config, or model/ and output/data, as in /opt/ml",
                hint="give another folder, or say what it is with --kind")
        for run in runs:
            yield from _in_folder(run)


def _is_unstarted(out: Path) -> bool:
    """Whether the task has not begun: the platform, or `ymir-exc sample`, has laid out the folder, and nothing was written yet."""
    from ymir_exc.host.check import _monitor
    record = _monitor.record_of(out)
    return (record is not None and record.state == _PENDING and not any(os.path.exists(out / name) for name in _RESULTS)
            and not (os.path.isfile(out / _LOG) and os.path.getsize(out / _LOG)))


def _given_beside(out: Path) -> Optional[Path]:
    """The `in` folder beside one called `out`, which are the two of a task."""
    out = Path(os.path.abspath(out))
    return out.parent / "in" if out.name == "out" and os.path.isfile(out.parent / "in" / "env.yaml") else None


def _holds(folder: Path, names: Sequence[str]) -> bool:
    return any(os.path.lexists(folder / name) for name in names)


def _each(parts: Sequence[Tuple[str, Path, Optional[Path]]], on_progress: Optional[OnProgress],
          counts: Dict[str, int]) -> Iterator[Finding]:
    for kind, path, given in parts:
        if kind == "out":
            yield from check_output(path, given, on_progress, counts)
        elif kind == "ti":
            from ymir_exc.host.check import _opt_ml
            yield from _context.guarded(str(path), lambda path=path: _opt_ml.check_tree(path, on_progress, counts))    # type: ignore[misc]
        else:
            yield from _context.guarded(str(path), lambda kind=kind, path=path: _given(kind, path, on_progress, counts))    # type: ignore[misc]


def _given(kind: str, path: Path, on_progress: Optional[OnProgress], counts: Dict[str, int]) -> Iterator[Finding]:
    if kind == "img-man":
        from ymir_exc.host.check import _templates
        return _templates.check_templates(path)
    if kind == "config":
        from ymir_exc.host.check import _config
        return _config.check_config(path)
    from ymir_exc.host.check import _dataset

    def counted(done: int, total: int) -> None:
        counts["images"] = max(total, counts.get("images", 0))
        if on_progress is not None:
            on_progress(done, total)

    return _dataset.check_input(path, counted)
