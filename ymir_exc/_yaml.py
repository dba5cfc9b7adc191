"""Reading YAML that a platform, a web form or a person wrote: safe, bounded, and every fault named with its file and line."""
from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, Dict, Iterable, Mapping, Optional, Set, cast

from ymir_exc.errors import ConfigError

MAX_VALUES = 100_000
"""Several times the class names of the largest public datasets, which have 21,841. A value takes some five microseconds."""

MAX_DEPTH = 100
_BYTES_PER_VALUE = 40
_MAX_NUMBER = 1000
"""Characters: a longer one takes time with the square of its length when it reads 1:1:1:..., which YAML 1.1 counts in sixties."""


class _TooMany(Exception):
    """More values than are read."""

    def __init__(self, problem: str, mark: Any = None) -> None:
        super().__init__(problem)
        self.mark = mark


def nearest(name: str, known: Iterable[str]) -> Optional[str]:
    """The known name that is most like this one, or None when none is."""
    import difflib
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def misspelt(given: Mapping[str, Any], key: str) -> str:
    """A hint that names the key which seems to be meant for one that is missing; '' where none is like it."""
    close = None if key in given else nearest(key, map(str, given))
    return f"is {close} meant to be {key}?" if close else ""


def value_of(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """`config.get(key, default)`, also of an EasyDict with a key named `get`, which hides the method."""
    return config[key] if key in config else default    # noqa: SIM401 - as said


def load_mapping(path: str, what: str = "this file") -> Dict[str, Any]:
    """Read a YAML file whose root is a mapping.

    Args:
        path: The file; UTF-8, with or without a byte order mark.
        what: What the file is to the user, for messages.

    Raises:
        ConfigError: Missing, unreadable, not UTF-8, not YAML, a doubled key, not a mapping, empty, or too large when its aliases are
            written out.
    """
    value = load(path, what)
    if value is None:
        raise ConfigError(f"{path} is empty", hint=f"{what} must be a mapping of keys to values")
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {what} must be a mapping of keys to values, not a {type(value).__name__}")
    return value


def load(path: str, what: str = "this file", most: int = 0) -> Any:
    """Read any YAML file; see `load_mapping`.

    Args:
        path: As there.
        what: As there.
        most: How many values are read; MAX_VALUES when 0. The file may have some tens of bytes for each.
    """
    most = most or MAX_VALUES
    return _parsed(_read_text(path, what, most * _BYTES_PER_VALUE), path, most)


def loads(text: str, name: str) -> Any:
    """Read YAML that was given as text, of a command line, say; the limits and errors are those of `load_mapping`.

    Args:
        text: The YAML.
        name: What it is called in messages.
    """
    return _parsed(text, name, MAX_VALUES)


def key_lines(path: str) -> Dict[str, int]:
    """Where the keys of a file stand.

    Args:
        path: A file that `load` can read.

    Returns:
        The line, from 1, of each key or entry, such as `model_stages.epoch_1.files[0]`.
    """
    import yaml
    text = _read_text(path, "this file", MAX_VALUES * _BYTES_PER_VALUE)
    root = yaml.compose(text, Loader=cast(Any, partial(_loader(), most=MAX_VALUES)))
    lines: Dict[str, int] = {}
    if root is not None:
        _walk(root, "", lines, set())
    return lines


def _walk(node: Any, key: str, lines: Dict[str, int], seen: Set[int]) -> None:
    if id(node) in seen:    # an alias: written out, a few lines may stand for billions
        return
    seen.add(id(node))
    if isinstance(node.value, str):
        return
    for position, child in enumerate(node.value):
        if isinstance(child, tuple):
            name, child = child
            place = f"{key}.{name.value}" if key else str(name.value)
            lines.setdefault(place, name.start_mark.line + 1)
        else:
            place = f"{key}[{position}]"
            lines.setdefault(place, child.start_mark.line + 1)
        _walk(child, place, lines, seen)


def _parsed(text: str, path: str, most: int) -> Any:
    import yaml
    try:
        value = yaml.load(text, Loader=cast(Any, partial(_loader(), most=most)))    # a SafeLoader, made below
        _check_size(value, most)
    except _TooMany as e:
        raise ConfigError(f"{path}{_line(e.mark)}: {e}", hint=f"at most {most} are read; move long lists to a file of their own") from None
    except yaml.MarkedYAMLError as e:
        raise ConfigError(f"{path}{_line(e.problem_mark)}: not valid YAML: {e.problem or e.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError, AttributeError, TypeError) as e:    # of odd tags
        raise ConfigError(f"{path}: not valid YAML: {e}") from None
    return value


def _line(mark: Any) -> str:
    return f", line {mark.line + 1}" if mark else ""


def _read_text(path: str, what: str, most: int) -> str:
    try:
        with open(path, "rb") as f:
            data = f.read(most + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", hint=f"the platform puts {what} there before it starts the container") from None
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from None
    if len(data) > most:
        raise ConfigError(f"{path} is larger than {most} bytes", hint="no configuration is that large")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text", hint="save the file as UTF-8") from None


@lru_cache(maxsize=None)
def _loader() -> Any:
    """A safe loader, of libyaml where it was built, that refuses doubled keys and merges that explode."""
    import yaml
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):    # type: ignore[misc]
        nodes = 0
        merged = 0
        depth = 0

        def __init__(self, stream: Any, most: int) -> None:
            super().__init__(stream)
            self.most = most
            self.checked: Set[int] = set()

        def descend_resolver(self, current_node: Any, current_index: Any) -> None:
            """Called before each nested value; libyaml's loader would overflow the stack and end the process."""
            self.depth += 1
            self.nodes += 1
            mark = getattr(current_node, "start_mark", None)
            if self.nodes > self.most:
                raise _TooMany("it holds too many values", mark)
            if self.depth > MAX_DEPTH:
                raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
            super().descend_resolver(current_node, current_index)

        def ascend_resolver(self) -> None:
            self.depth -= 1
            super().ascend_resolver()

        def flatten_mapping(self, node: Any) -> None:
            if id(node) not in self.checked:    # merged keys, written into the node by its first visit, are no doubles
                self.checked.add(id(node))
                self._refuse_doubles(node)
            super().flatten_mapping(node)
            self.merged += 1 + len(node.value)
            if self.merged > self.most:
                raise _TooMany("its merge keys expand to too many values", node.start_mark)

        def _refuse_doubles(self, node: Any) -> None:
            seen = set()
            for key, _ in node.value:
                if key.tag in ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value") or not isinstance(key.value, str):
                    continue
                made = self.construct_object(key)    # 1 and 01 are the same
                if made in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is there twice", key.start_mark)
                seen.add(made)

    def number(loader: Any, node: Any) -> Any:
        if len(node.value) > _MAX_NUMBER:
            raise yaml.constructor.ConstructorError(None, None, f"a number of {len(node.value)} characters", node.start_mark)
        return base.yaml_constructors[node.tag](loader, node)

    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", number)
    return Loader


def _check_size(value: Any, most: int) -> None:
    """Count values as if every alias were written out, and stop early: a few lines of nested anchors can stand for billions."""
    pending, count = [value], 0
    while pending:
        item = pending.pop()
        count += 1
        if count > most:
            raise _TooMany("its anchors and aliases expand to too many values")
        if isinstance(item, dict):
            pending.extend(item.values())
            for key in item:
                _refuse_nul(key)
        elif isinstance(item, (list, tuple, set)):
            pending.extend(item)
        _refuse_nul(item)


def _refuse_nul(item: Any) -> None:
    if isinstance(item, str) and "\0" in item:
        raise ValueError(f"{item!r:.80} holds a NUL character, as no path and no name can")
