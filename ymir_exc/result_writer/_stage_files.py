"""The files of model stages: each stage has its own, and what belongs to none is deleted (contract 6.3).

A note beside result.yaml names the files that a write is about to copy or to delete. Whoever is killed meanwhile leaves it, and the
next write deletes those that result.yaml does not list: else a later stage of that name would take an old copy for its own weights.
"""
from __future__ import annotations

import contextlib
import logging
import os
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple

from ymir_exc import _files
from ymir_exc.errors import ResultError

_log = logging.getLogger(__name__)
_COARSE_NS = (1, 100, 1000, 10 ** 9, 2 * 10 ** 9)
"""What file systems round the time of a file to."""


class Copy(NamedTuple):
    """A file that a stage is to have in its folder."""

    source: str
    time: int    # of its content, in nanoseconds; the copy keeps it
    is_new: bool
    may_link: bool
    is_needed: bool    # else the platform finds a file without it


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
                    made[own] = Copy(source, os.stat(source).st_mtime_ns, not os.path.lexists(own), self._may_link(source, own, given_name),
                                     name in brought or self.found(stage, name) is None)
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
        elif not os.path.isfile(common) or (_tells_stage(name, stage) and not self._is_linked(common)):
            return None
        # What lies in the folder of a stage that is new was saved for it; the common file may be of any epoch.
        return common if not os.path.isfile(own) or (is_known and _is_newer(common, own)) else None

    def _may_link(self, source: str, own: str, given_name: str) -> bool:
        """Whether the source was saved for this stage alone: then the stage's file is that very file under a second name."""
        folders = [os.path.normpath(os.path.join(self.models_dir, name)) + os.sep for name in (given_name, given_name.replace("-", "_"))]
        return source != own and os.path.normpath(source).startswith(tuple(folders)) and not self._is_linked(source)

    def _is_linked(self, path: str) -> bool:
        """Whether the file is a link, or lies in a folder that leads out."""
        return os.path.islink(path) or not self._is_inside(path)

    def _is_inside(self, path: str, folder: str = "") -> bool:
        return os.path.realpath(path).startswith(os.path.realpath(os.path.join(self.models_dir, folder)) + os.sep)

    def spare(self, dropped: Mapping[str, Mapping[str, Any]], result: Mapping[str, Any]) -> List[str]:
        """What dropped stages hold and no other stage lists; never result.yaml, nor what is no stage's."""
        kept = self._listed(result) if dropped else set()
        paths = [self.found(stage, name) for stage, entry in dropped.items() for name in _safe_names(entry)]
        return [path for path in paths if path is not None and self._is_spare(path, kept)]

    def _listed(self, result: Mapping[str, Any]) -> Set[str]:
        # Also where it is not found now: a common file that a stage has a copy of is still its name.
        return {os.path.realpath(os.path.join(self.models_dir, place, name)) for stage, entry in result.get("model_stages", {}).items()
                for name in _safe_names(entry) for place in (stage, "")}

    def _is_spare(self, path: str, kept: Set[str]) -> bool:
        return os.path.realpath(path) not in kept and self._is_inside(os.path.join(os.path.dirname(path), "x")) \
            and not self.is_result(path) and not self._is_inside(path, "attachments")

    def begin(self, stage: str, copies: Mapping[str, Copy], spare: Iterable[str]) -> None:
        """Note what is about to change, and make the copies; `end` or `undo` follows when result.yaml was written or was not.

        Raises:
            StorageError: A file without which the platform would find none could not be copied.
        """
        failure = self._write_note({**{own: copy.time for own, copy in copies.items() if copy.is_new}, **dict(_times(spare))})
        for own, copy in copies.items():
            try:
                if failure:
                    raise failure
                _make(own, copy)
            except OSError as e:    # a full disk
                if copy.is_needed:
                    raise
                _log.warning("stage %s keeps no %s of its own, a later stage may overwrite it: %s", stage, os.path.basename(own), e)

    def _write_note(self, times: Mapping[str, int]) -> Optional[OSError]:
        if not times:
            return None
        import json
        self._is_noted = True
        try:
            names = {os.path.relpath(path, self.models_dir): time for path, time in times.items()}
            _files.write_bytes(self._note, json.dumps(names).encode("ascii"))
        except OSError as e:    # a StorageError
            return e
        return None

    def end(self, spare: Iterable[str]) -> None:
        """Delete what no stage lists now."""
        for path in spare:
            _delete(path)
            self._remove_empty(os.path.dirname(path))
        self._forget()

    def undo(self, copies: Mapping[str, Copy]) -> None:
        """Take the copies back."""
        for own, copy in copies.items():
            if copy.is_new:
                _delete(own)
        self._forget()

    def finish_earlier(self, result: Mapping[str, Any]) -> None:
        """Delete what a writer that was killed would have deleted, or has copied for a stage that it did not come to list.

        What has changed since belongs to whoever changed it.
        """
        import json
        try:
            with open(self._note, "rb") as f:
                noted = json.loads(f.read())
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            noted = None
        self._is_noted = True
        times = {os.path.join(self.models_dir, name): noted[name] for name in _safe_names({"files": list(noted)})
                 if isinstance(noted[name], int)} if isinstance(noted, dict) else {}
        kept = self._listed(result)
        for path, found in _times(times):
            if found in [times[path] // unit * unit for unit in _COARSE_NS] and self._is_spare(path, kept):
                _delete(path)
        self._forget()

    def _forget(self) -> None:
        if self._is_noted:
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


def _make(own: str, copy: Copy) -> None:
    if copy.may_link:
        with contextlib.suppress(OSError):    # a file system without hard links, or somebody else's file
            _files.make_folder(os.path.dirname(own), shared=True)
            temp = _files._temp_name(own)
            os.link(copy.source, temp)
            try:
                os.replace(temp, own)
            finally:
                _delete(temp)
            _files.sync_folder(os.path.dirname(own))
            return
    import shutil
    with open(copy.source, "rb") as reader:
        _files.make_folder(os.path.dirname(own), shared=True)
        with _files.open_atomic(own, follow_links=False, shared=True) as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            with contextlib.suppress(OSError):
                os.utime(writer.fileno(), ns=(copy.time, copy.time))


def _times(paths: Iterable[str]) -> Iterable[Tuple[str, int]]:
    for path in paths:
        with contextlib.suppress(OSError):
            yield path, os.stat(path).st_mtime_ns


def _delete(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _tells_stage(name: str, stage: str) -> bool:
    """`epoch_10.pth` is of the stage `epoch_10` alone, `best.pt` may be of any."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(stage)}(?![A-Za-z0-9])", name) is not None


def _is_newer(common: str, own: str) -> bool:
    """Whether a stage that is written again has new weights in models_dir; else its own ones are what counts.

    By the time of the last change of the file itself: the one of its content travels with `cp -p` and `shutil.copy2`. Who replaces the
    one of two names of a file changes the file under the other name at that very time.
    """
    return not os.path.samefile(common, own) and os.stat(common).st_ctime_ns >= os.stat(own).st_ctime_ns


def _safe_names(entry: Mapping[str, Any]) -> List[str]:
    """The files of a stage, as result.yaml has it."""
    names = entry.get("files")
    return [name for name in names if isinstance(name, str) and not os.path.isabs(name) and ".." not in name.split("/")
            and "\0" not in name] if isinstance(names, list) else []
