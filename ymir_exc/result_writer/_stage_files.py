"""The files of model stages: each stage has its own, and what belongs to none is deleted (contract 6.3).

A note beside result.yaml names the files that a write is about to copy, to replace or to delete. Whoever is killed meanwhile leaves it,
and the next write deletes those that result.yaml does not list: else a later stage of that name would take an old copy for its own weights.

Weights of a stage that is written again are replaced when their copies are complete, just before result.yaml is; the earlier ones have a
second name until it stands. If it cannot be written they are put back at once, after a kill in between with the next write: until then
the weights are newer than the metrics.
"""
from __future__ import annotations

import contextlib
import logging
import os
import re
import zlib
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple

from ymir_exc import _files
from ymir_exc.errors import ResultError

_log = logging.getLogger(__name__)
_COARSE_NS = (1, 100, 1000, 10 ** 9, 2 * 10 ** 9)
"""What file systems round the time of a file to."""

_put_back: Dict[str, Tuple[int, int]] = {}
"""Files that this process has put back: when that changed them, and when they had changed before."""


class Copy(NamedTuple):
    """A file that a stage is to have in its folder."""

    source: str
    time: int    # of its content, in nanoseconds; the copy keeps it
    replaces: Optional[int]    # when the file changed that it takes the place of; None where there is none
    is_needed: bool    # else the platform finds the source without it


class StageFiles:
    """The folder that the platform takes models from.

    Args:
        models_dir: This folder.
        result_file: Path of result.yaml.
    """

    def __init__(self, models_dir: str, result_file: str) -> None:
        self.models_dir = models_dir
        self._result_file = result_file
        folder, name = os.path.split(result_file)
        self._note = os.path.join(folder, f".{name}.ymir-unfinished")
        self._is_noted = False

    def found(self, stage: str, name: str) -> Optional[str]:
        """The file that the platform would take: of the stage's folder, else of models_dir."""
        for path in (os.path.join(self.models_dir, stage, name), os.path.join(self.models_dir, name)):
            if os.path.isfile(path):
                return path
        return None

    def is_result(self, path: str) -> bool:
        """Whether it is result.yaml, or one that was set aside: older versions list it among the files of a stage."""
        return re.fullmatch(re.escape(os.path.realpath(self._result_file)) + r"(\.unreadable(\.\d+)?)?", os.path.realpath(path)) is not None

    def copies(self, stage: str, given_name: str, names: Iterable[str], is_known: bool, brought: Mapping[str, str]) -> Dict[str, Copy]:
        """What the stage needs, so that what is written next does not change it.

        Args:
            stage: Its name.
            given_name: The same with the hyphens that the platform does not take.
            names: Its files.
            is_known: Whether result.yaml lists the stage already.
            brought: Where files come from that are to be in its folder in any case.

        Returns:
            Path in the stage's folder to its source.

        Raises:
            ResultError: The folder leads out of models_dir.
            FileNotFoundError: A file that is to be brought has vanished.
        """
        made: Dict[str, Copy] = {}
        for name in names:
            own = os.path.join(self.models_dir, stage, name)
            source = brought.get(name)
            with contextlib.suppress(*(() if name in brought else (OSError,))):    # the file vanished meanwhile
                if source is None:
                    source = self._to_copy(stage, given_name, name, own, is_known)
                elif not os.path.islink(own) and os.path.exists(own) and os.path.samefile(source, own):
                    source = None
                if source is not None:
                    self._check_inside(stage, own)
                    found = self.found(stage, name)
                    made[own] = Copy(source, os.stat(source).st_mtime_ns,
                                     _changed(own) if os.path.isfile(own) or os.path.islink(own) else None,
                                     name in brought or found is None or not os.path.samefile(found, source))
        return made

    def _check_inside(self, stage: str, target: str) -> None:
        if not self._is_inside(os.path.dirname(target)):
            raise ResultError(f"stage {stage}: the folder of {target} is a link that leads out of {self.models_dir}",
                              hint="the platform sees what is inside only")

    def _to_copy(self, stage: str, given_name: str, name: str, own: str, is_known: bool) -> Optional[str]:
        """The file that the stage needs a copy of, if it does."""
        if os.path.isfile(own) and self._is_linked(own):
            return own
        common = os.path.join(self.models_dir, name)
        if given_name != stage and os.path.isfile(os.path.join(self.models_dir, given_name, name)):
            common = os.path.join(self.models_dir, given_name, name)    # where the platform does not look
        if not os.path.isfile(common):
            return None
        if os.path.isfile(own):
            # What lies in the folder of a stage that is new was saved for it; the common file may be of any epoch.
            return common if is_known and _is_newer(common, own) else None
        is_elsewhere = common != os.path.join(self.models_dir, name)
        return common if is_elsewhere or self._is_linked(common) or not _is_of_one_stage(name, stage) else None

    def _is_linked(self, path: str) -> bool:
        """Whether the file is a link, or lies in a folder that leads out."""
        return os.path.islink(path) or not self._is_inside(path)

    def _is_inside(self, path: str, folder: str = "") -> bool:
        return os.path.realpath(path).startswith(os.path.realpath(os.path.join(self.models_dir, folder)) + os.sep)

    def spare(self, dropped: Mapping[str, Mapping[str, Any]], result: Mapping[str, Any]) -> List[str]:
        """What dropped stages hold and no other stage lists; never result.yaml, nor what is no stage's.

        What a stage has a copy of is the program's, which may load it again; but it goes too when its name has the stage's number,
        for there is one for each stage.
        """
        kept = self._listed(result) if dropped else set()
        names = [(stage, name) for stage, entry in dropped.items() for name in _safe_names(entry)]
        paths = [self.found(stage, name) for stage, name in names]
        paths += [self._original(stage, name) for stage, name in names if _has_number_of(stage, name)]
        return [path for path in dict.fromkeys(paths) if path is not None and self._is_spare(path, kept)]

    def _original(self, stage: str, name: str) -> Optional[str]:
        """The common file that a stage has a copy of, unless it has changed since."""
        own, common = os.path.join(self.models_dir, stage, name), os.path.join(self.models_dir, name)
        with contextlib.suppress(OSError):
            ours, theirs = os.stat(own), os.lstat(common)
            if (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns):
                return common
        return None

    def _listed(self, result: Mapping[str, Any]) -> Set[str]:
        # Also where it is not found now: a common file that a stage has a copy of is still its name.
        return {os.path.realpath(os.path.join(self.models_dir, place, name)) for stage, entry in result.get("model_stages", {}).items()
                for name in _safe_names(entry) for place in (stage, "")}

    def _is_spare(self, path: str, kept: Set[str]) -> bool:
        return os.path.realpath(path) not in kept and self._is_inside(os.path.join(os.path.dirname(path), "x")) \
            and not self.is_result(path) and not self._is_inside(path, "attachments")

    def begin(self, stage: str, entry: Mapping[str, Any], copies: Mapping[str, Copy], spare: Iterable[str]) -> None:
        """Note what is about to change, make the copies, and put them in the place of earlier ones when all are complete.

        `end` or `undo` follows when result.yaml was written or was not.

        Raises:
            StorageError: A file could not be copied, and the platform would find none or one of other content.
        """
        noted: Dict[str, Any] = {own: copy.time if copy.replaces is None else [copy.time, copy.replaces, stage, _digest(entry)]
                                 for own, copy in copies.items()}
        failure = self._write_note({**noted, **dict(_times(spare))})
        complete = []
        for own, copy in copies.items():
            try:
                if failure:
                    raise failure
                if copy.replaces is None:
                    _make(own, copy)
                else:
                    _make(_beside(own, "new"), copy)
                    complete.append(own)
            except OSError as e:    # a full disk
                if copy.is_needed:
                    raise _files.storage_error(own, e) from e
                _log.warning("stage %s keeps no %s of its own, a later stage may overwrite it: %s", stage, os.path.basename(own), e)
        for own in complete:
            try:
                _replace(own)
            except OSError as e:
                raise _files.storage_error(own, e) from e

    def _write_note(self, noted: Mapping[str, Any]) -> Optional[OSError]:
        if not noted:
            return None
        import json
        self._is_noted = True
        try:
            names = {os.path.relpath(path, self.models_dir): value for path, value in noted.items()}
            _files.write_bytes(self._note, json.dumps(names).encode("ascii"))
        except OSError as e:    # a StorageError
            return e
        return None

    def end(self, copies: Iterable[str], spare: Iterable[str]) -> None:
        """Delete what no stage lists now."""
        for path in copies:
            _delete(_beside(path, "old"))
        for path in spare:
            _delete(path)
            self._remove_empty(os.path.dirname(path))
        self._forget()

    def undo(self, copies: Mapping[str, Copy]) -> None:
        """Take the copies back, and put back what they replaced."""
        for own, copy in copies.items():
            if copy.replaces is None:
                _delete(own)
            else:
                _delete(_beside(own, "new"))
                _restore(own, copy.replaces)
        self._forget(copies)

    def finish_earlier(self, result: Mapping[str, Any]) -> None:
        """Put right what a writer that was killed has left half-done.

        Delete what it would have deleted, or has copied for a stage that it did not come to list; put back what it has replaced for
        metrics that result.yaml does not have. What has changed since belongs to whoever changed it.
        """
        import json
        try:
            with open(self._note, "rb") as f:
                read = json.loads(f.read())
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            read = None
        self._is_noted = True
        noted = {os.path.join(self.models_dir, name): read[name] for name in _safe_names({"files": list(read)})} \
            if isinstance(read, dict) else {}
        kept = self._listed(result)
        for path, value in noted.items():
            if not self._is_inside(os.path.join(os.path.dirname(path), "x")):
                continue
            _sweep(path)
            if isinstance(value, list):
                self._finish_replacing(path, value, result)
            elif isinstance(value, int) and _is_of_time(path, value) and self._is_spare(path, kept):
                _delete(path)
        self._forget(noted)

    def _finish_replacing(self, own: str, value: List[Any], result: Mapping[str, Any]) -> None:
        old = _beside(own, "old")
        if list(map(type, value)) == [int, int, str, str] and os.path.lexists(old):
            time, changed, stage, digest = value
            is_listed = _digest(result.get("model_stages", {}).get(stage)) == digest
            if not is_listed and (not os.path.lexists(own) or _is_of_time(own, time) or os.path.samestat(os.lstat(own), os.lstat(old))):
                _restore(own, changed)
            else:
                _delete(old)

    def _forget(self, paths: Iterable[str] = ()) -> None:
        if self._is_noted and not any(os.path.lexists(_beside(path, "old")) for path in paths):
            _delete(self._note)
        self._is_noted = False

    def _remove_empty(self, folder: str) -> None:
        root = self.models_dir.rstrip("/")
        while folder.startswith(root + "/"):
            try:
                os.rmdir(folder)
            except OSError:
                return
            folder = os.path.dirname(folder)


def _make(target: str, copy: Copy) -> None:
    import shutil
    with open(copy.source, "rb") as reader:
        _files.make_folder(os.path.dirname(target), shared=True)
        with _files.open_atomic(target, follow_links=False, shared=True) as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            with contextlib.suppress(OSError):
                os.utime(writer.fileno(), ns=(copy.time, copy.time))


def _beside(own: str, kind: str) -> str:
    """Where the new file waits, or the old one: no name of a temporary file, which anybody may sweep."""
    folder, name = os.path.split(own)
    return os.path.join(folder, f".{name[:180]}.{zlib.crc32(os.fsencode(name)):08x}.ymir-{kind}")


def _replace(own: str) -> None:
    """Put the new file in the place of the old one, which keeps a second name."""
    old = _beside(own, "old")
    _delete(old)
    try:
        os.link(own, old, follow_symlinks=False)
    except OSError:    # a file system without hard links, or somebody else's file
        os.rename(own, old)
    os.replace(_beside(own, "new"), own)
    _files.sync_folder(os.path.dirname(own))


def _restore(own: str, changed: int) -> None:
    old = _beside(own, "old")
    with contextlib.suppress(OSError):    # it was not replaced
        os.replace(old, own)
        _delete(old)    # two names of one file stay two
        _put_back[own] = os.lstat(own).st_ctime_ns, changed
        _files.sync_folder(os.path.dirname(own))


def _sweep(own: str) -> None:
    """Delete what a killed writer of this file has left: temporary files have its name."""
    _delete(_beside(own, "new"))
    starts = tuple(_files._temp_name(path).partition(_files._TEMP_MARK)[0] + _files._TEMP_MARK for path in (own, _beside(own, "new")))
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(os.path.dirname(own))):
            if entry.path.startswith(starts):
                _delete(entry.path)


def _digest(entry: Any) -> str:
    """Tells entries of result.yaml apart, also when they were read from the file."""
    import hashlib
    import json
    with contextlib.suppress(TypeError):    # none of ours
        return hashlib.sha256(json.dumps(entry, sort_keys=True).encode("ascii")).hexdigest()
    return ""


def _times(paths: Iterable[str]) -> Iterable[Tuple[str, int]]:
    for path in paths:
        with contextlib.suppress(OSError):
            yield path, os.stat(path).st_mtime_ns


def _delete(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _is_of_time(path: str, time: int) -> bool:
    return any(found in [time // unit * unit for unit in _COARSE_NS] for _, found in _times([path]))


def _has_number_of(stage: str, name: str) -> bool:
    """`model_epoch_10.pth` was saved for the stage `epoch_10`; `best.pt` may be saved again, also when there is a stage `best`."""
    return stage[-1:].isdigit() and re.search(rf"(?<![A-Za-z0-9]){re.escape(stage)}(?![A-Za-z0-9])", name) is not None


def _is_of_one_stage(name: str, stage: str) -> bool:
    """Whether no other stage will use the file: it lies in the stage's folder, or is `epoch_10.pth`.

    Only a number tells that: `best.pth` or `yolov5.pth` is written again for the stage after `best` or `yolov5`.
    """
    stem = os.path.basename(name).partition(".")[0].replace("-", "_")
    return name.startswith(f"{stage}/") or (stem == stage and re.search(r"_[0-9]+$", stage) is not None)


def _changed(path: str) -> int:
    """When the file changed, by itself and not by being put back."""
    at = os.lstat(path).st_ctime_ns
    put_back, before = _put_back.get(path, (None, 0))
    return before if at == put_back else at


def _is_newer(common: str, own: str) -> bool:
    """Whether a stage that is written again has new weights in models_dir; else its own ones are what counts.

    By the time of the last change of the file itself: the one of its content travels with `cp -p` and `shutil.copy2`.
    """
    return not os.path.samefile(common, own) and os.stat(common).st_ctime_ns >= _changed(own)


def _safe_names(entry: Mapping[str, Any]) -> List[str]:
    """The files of a stage, as result.yaml has it."""
    names = entry.get("files")
    return [name for name in names if isinstance(name, str) and not os.path.isabs(name) and ".." not in name.split("/")
            and "\0" not in name] if isinstance(names, list) else []
