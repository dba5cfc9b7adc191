"""What the checks of a run's output share: which task it was, its candidates, the files that are read, and findings of any file."""
from __future__ import annotations

import codecs
import os
import stat
import sys
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Set, Tuple

from ymir_exc.errors import ConfigError, one_line
from ymir_exc.host.check._env import absence, is_set, read_mapping
from ymir_exc.host.findings import Finding, Rule, Severity, rule

X001 = rule("X001", Severity.ERROR, "Every check can be carried out", "What was not judged may be wrong",
            "Mend what the message names; if nothing is wrong with the file, report it with the message")
X003 = rule("X003", Severity.ERROR, "An output is a regular file, no link, folder or pipe",
            "The platform looks for a link's target on its own machine, and reads nothing else than files",
            "Write the file itself where the link stands")
X004 = rule("X004", Severity.ERROR, "An output can be read", "The platform runs under another user, and cannot read it either",
            "Give it the permissions 0666, and its folder 0777")
X005 = rule("X005", Severity.ERROR, "An output is UTF-8 text", "The platform fails when it decodes it", "Open it with encoding='utf-8'")
X006 = rule("X006", Severity.ERROR, "An output begins with no byte order mark", "The platform reads it as a part of the first value",
            "Write it with encoding 'utf-8', not 'utf-8-sig'")
X011 = rule("X011", Severity.WARNING, "env.yaml and config.yaml of the task can be read",
            "The output is judged without knowing the task, so much is left out", "Check the `in` folder by itself")

_BLOCK = 1 << 20
_LONGEST_LINE = 1 << 20
OBJECT_TYPES = (2, 3, 4, 50)    # the keys of util.OBJECT_TYPE_FOLDERS, whose import is slow
PRIMARY = {2: "mAP", 3: "mIoU", 4: "maskAP"}
"""Object type to the metric by which the platform's users choose a stage (contract 6.1)."""


class Candidates:
    """The images of a candidate index, as compact as exactness allows: a name is kept once, a folder once.

    Args:
        paths: As given in the index file.
    """

    def __init__(self, paths: Iterator[str]) -> None:
        self._folders: Dict[str, str] = {}
        self._more: Set[str] = set()
        for path in paths:
            folder, name = _split(path)
            if name in self._folders:
                self._more.add(path)
            else:
                self._folders[name] = sys.intern(folder)

    def __len__(self) -> int:
        return len(self._folders)

    def __contains__(self, name: str) -> bool:
        return name in self._folders

    def names(self) -> Set[str]:
        """All file names, in a set of its own."""
        return set(self._folders)

    def has_path(self, path: str) -> bool:
        """Whether the index file holds this path, letter for letter."""
        folder, name = _split(path)
        return self._folders.get(name) == folder or path in self._more

    def path(self, name: str) -> Optional[str]:
        """The path of an image as the index file has it."""
        folder = self._folders.get(name)
        return None if folder is None else folder + name

    def first(self, names: Set[str], most: int = 3) -> List[str]:
        """The first few of these names in the order of the index file."""
        found: List[str] = []
        for name in self._folders:
            if name in names:
                found.append(name)
                if len(found) == most:
                    break
        return found


def _split(path: str) -> Tuple[str, str]:
    cut = path.rfind("/") + 1
    return path[:cut], path[cut:]


class Coverage:
    """Which images a result has named so far.

    Args:
        candidates: Those that it should name; None where they are not known.
    """

    def __init__(self, candidates: Optional[Candidates]) -> None:
        self._candidates = candidates
        self._unseen: Set[str] = set() if candidates is None else candidates.names()
        self._others: Set[str] = set()    # of images that are no candidates, or where these are not known

    def add(self, name: str) -> bool:
        """Note an image by its file name, and say whether it was there before."""
        if self._candidates is not None and name in self._candidates:
            is_again = name not in self._unseen
            self._unseen.discard(name)
        else:
            is_again = name in self._others
            self._others.add(name)
        return is_again

    def excuse(self, name: str) -> None:
        """Do not count an image as missing: it is there, but another finding tells what is wrong with it."""
        self._unseen.discard(name)

    def is_stranger(self, name: str) -> bool:
        """Whether the candidates are known, and this is none."""
        return self._candidates is not None and name not in self._candidates

    def lacking(self, said: str) -> str:
        """How many candidates `said`, such as "are missing", and the first of them; '' when all were named."""
        if self._candidates is None or not self._unseen:
            return ""
        return f"{len(self._unseen)} of {len(self._candidates)} candidates {said}, first {', '.join(self._candidates.first(self._unseen))}"


class Task(NamedTuple):
    """What is known of the task. None: not known.

    Attributes:
        runs: Some of training, mining and infer.
        task_id: Its name.
        class_names: As the label store has them: lower case, without blanks around.
        object_type: 2 detection, 3 semantic, 4 instance segmentation, 50 multi-modal.
        candidates: Of mining and inference.
        given: The task's `in` folder.
        root: What the index files call that folder.
    """

    runs: Optional[FrozenSet[str]] = None
    task_id: Optional[str] = None
    class_names: Optional[FrozenSet[str]] = None
    object_type: Optional[int] = None
    candidates: Optional[Candidates] = None
    given: Optional[Path] = None
    root: str = "/in"

    def on_this_machine(self, path: str) -> str:
        """Where a file of the dataset is here, by its path in the index file."""
        return f"{self.given}{path[len(self.root):]}" if self.given and path.startswith(f"{self.root}/") else path


class Meter:
    """Counts bytes read, and reports them.

    Args:
        on_progress: Called with the bytes read and those there are.
        total: Bytes that will be read.
    """

    def __init__(self, on_progress: Optional[Callable[[int, int], None]] = None, total: int = 0) -> None:
        self._on_progress = on_progress
        self._done, self._total = 0, total

    def add(self, count: int) -> None:
        """So many more bytes were read."""
        self._done += count
        if self._on_progress is not None and self._total:
            self._on_progress(min(self._done, self._total), self._total)


def read_task(given: Path, found: List[Finding]) -> Task:
    """Read what an `in` folder says; what cannot be read is told in `found`, and is not known."""
    env, config = _mapping(given / "env.yaml", found), _mapping(given / "config.yaml", found)
    runs = None
    if env is not None:
        runs = frozenset(task for task in ("training", "mining", "infer") if is_set(env, task))
    names = (config or {}).get("class_names")
    classes = frozenset(str(name).strip().lower() for name in names) if isinstance(names, list) else None
    kind = None if config is None else config.get("object_type", 2)
    task_id, inside = (env or {}).get("task_id"), (env or {}).get("input")
    root = str(inside.get("root_dir", "/in")) if isinstance(inside, dict) else "/in"
    wants_candidates = runs is None or runs & {"mining", "infer"}
    return Task(runs, None if task_id is None else str(task_id), classes, kind if kind in OBJECT_TYPES else None,
                _candidates(given / "candidate-index.tsv", found) if wants_candidates else None, given,
                root.rstrip("/"))


def _mapping(path: Path, found: List[Finding]) -> Optional[Dict[str, Any]]:
    try:
        return read_mapping(str(path), "the task's description")
    except ConfigError as e:
        found.append(X011.found(e.message, str(path)))
        return None


def _candidates(path: Path, found: List[Finding]) -> Optional[Candidates]:
    if not is_there(path):
        return None
    if absence(str(path)):
        found.append(X011.found(absence(str(path)), str(path)))
        return None
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as f:
            lines = iter(lambda: f.readline(_LONGEST_LINE), "")
            return Candidates(line.rstrip("\r\n").split("\t")[0] for line in lines if line.strip())
    except OSError as e:
        found.append(X011.found(f"cannot be read: {e.strerror}", str(path)))
        return None


def guarded(path: str, begin: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; where it stumbles, that is one more, and the caller goes on.

    Args:
        path: What it judges.
        begin: Starts it.
    """
    try:
        yield from begin()
    except OSError as e:
        name = e.filename if isinstance(e.filename, str) else path
        yield X004.found(f"cannot be read: {e.strerror or e}", name) if isinstance(e, PermissionError) else _failed(path, e)
    except Exception as e:    # whatever it is: it must not pass for "nothing found", nor keep the other checks from their work
        yield _failed(path, e)


def _failed(path: str, error: Exception) -> Finding:
    return X001.found(f"a check failed with {type(error).__name__}: {one_line(str(error)) or 'no reason given'}", path)


def is_there(path: Path) -> bool:
    """Whether anything stands at this path, a dangling link too. A folder that may not be looked into counts as yes: opening tells why."""
    try:
        os.lstat(path)
    except OSError as e:
        return isinstance(e, PermissionError)
    return True


def odd_file(path: Path) -> Optional[Finding]:
    """The finding of a path that is no regular file, if it is none."""
    mode = os.lstat(path).st_mode
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISLNK(mode):
        return X003.found(f"is a symbolic link to {os.readlink(path)}", str(path))
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"))
    return X003.found(f"is {next((name for test, name in kinds if test(mode)), 'no regular file')}", str(path))


def is_sound(path: Path, found: List[Finding], missing: Optional[Rule] = None) -> bool:
    """Whether an output can be read at all.

    Args:
        path: The file.
        found: Is told what is wrong; a byte order mark is told too, and hinders nothing.
        missing: The rule that is broken where nothing stands; without it, something must.
    """
    if missing is not None and not is_there(path):
        found.append(missing.found("there is none", str(path)))
        return False
    odd = odd_file(path)
    if odd is not None:
        found.append(odd)
        return False
    try:
        with open(path, "rb") as f:
            if f.read(3) == codecs.BOM_UTF8:
                found.append(X006.found("begins with the bytes EF BB BF", str(path), line=1))
    except OSError as e:
        found.append(X004.found(f"cannot be read: {e.strerror}", str(path)))
        return False
    return True


def first_bad_line(path: Path, on_bytes: Optional[Callable[[int], None]] = None) -> Optional[int]:
    """The line, from 1, of the first byte that is not UTF-8; None when there is none.

    Args:
        path: The file.
        on_bytes: Is told after each block how many bytes were read.
    """
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with open(path, "rb") as f:
        while True:
            data = f.read(_BLOCK)
            held = decoder.getstate()[0]
            try:
                decoder.decode(data, final=not data)
            except UnicodeDecodeError as e:
                return line + (held + data).count(b"\n", 0, e.start)
            if not data:
                return None
            line += data.count(b"\n")
            if on_bytes is not None:
                on_bytes(len(data))


def number(value: Any) -> Optional[float]:
    """A finite number as a float; None for anything else: a bool, text, NaN, a whole number beyond a float."""
    if type(value) is int or type(value) is float:
        try:
            made = float(value)
        except OverflowError:
            return None
        return made if made - made == 0 else None
    return None


def kind_of(value: Any) -> str:
    """What a value is, in a reader's words."""
    names = {type(None): "null", bool: "a boolean", int: "an integer", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return names.get(type(value), type(value).__name__)


def shown(value: Any) -> str:
    """A value for a message: its literal, cut."""
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"

