"""What the writers have in common whose images may be shared among processes; `ymir_exc.sharding` does the sharing."""
from __future__ import annotations

import contextlib
import logging
import os
from types import TracebackType
from typing import Any, ContextManager, Iterable, List, Optional, Protocol, Sequence, Tuple, Type

_log = logging.getLogger(__name__)
_NAMES_SHOWN = 3

Part = Tuple[List[str], bytes]
"""Paths of candidates that follow each other, and what `_part_of` made of their results."""


class Share(Protocol):
    """This process's share of the candidates, as a writer sees it."""

    def put(self, column: int, path: Any, value: Any) -> None:
        """Take the result of an image."""

    def skipping(self) -> ContextManager[None]:
        """What is put within it is of an image that is skipped."""

    def parts(self, column: int) -> Iterable[Part]:
        """At the end, when this share has all its results: the parts of all shares, for the process that writes the file."""

    def written(self, column: int) -> None:
        """The result file stands."""

    def abandon(self, error: BaseException) -> None:
        """There will be no result."""


class Sharing:
    """Base of the writers."""

    task: str

    def __init__(self) -> None:
        self._share: Optional[Share] = None
        self._column = 0
        self._skipped: List[str] = []
        self.skipped = 0

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        if self.skipped:
            shown = ", ".join(self._skipped) + (", ..." if self.skipped > len(self._skipped) else "")
            _log.warning("%d images were skipped, as the program asked: %s", self.skipped, shown)
        try:
            self._end(error, () if self._share is None else self._share.parts(self._column))
        except BaseException as e:
            if self._share is not None:
                self._share.abandon(e)
            raise
        if self._share is not None:
            if error is None:
                self._share.written(self._column)
            else:
                self._share.abandon(error)

    def skip(self, path: str) -> None:
        """Say that an image has no result because it cannot be used: no objects, no line of the ranking. How many they are, and the first
        of them, is in the log at the end of the block.

        Raises:
            ImageError: They are more than the `max_skipped_ratio` of `sharding.candidates` allows.
        """
        with contextlib.nullcontext() if self._share is None else self._share.skipping():
            self._skip(path)
            self.skipped += 1
            if len(self._skipped) < _NAMES_SHOWN:
                self._skipped.append(os.fsdecode(path))

    def _skip(self, path: str) -> None:
        raise NotImplementedError

    def _end(self, error: Optional[BaseException], parts: Iterable[Part]) -> None:
        """End of the block: write the result, of the parts if there are any, or give it up."""
        raise NotImplementedError

    def _part_of(self, paths: Sequence[str], values: Sequence[Any]) -> bytes:
        """The results of images that follow each other."""
        raise NotImplementedError

    def _identity(self) -> List[Any]:
        """What makes parts of one writer useless to another: builtin values."""
        raise NotImplementedError
