"""Progress: the one line of monitor.txt that the platform polls, and what is shown beside it in TensorBoard.

A call costs microseconds: at most a few lines a second reach the disk, the last one within `FLUSH_SECONDS`, each whole.
"""
from __future__ import annotations

import atexit
import contextlib
import errno
import math
import os
import sys
import time
from _thread import RLock
from enum import IntEnum
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Sized,
    Tuple,
    TypeVar,
    Union,
)

from ymir_exc import _files, env
from ymir_exc.code import ExecutorReturnCode, ExecutorState
from ymir_exc.errors import ArgumentError, Failure, StorageError, one_line

if TYPE_CHECKING:
    import threading

_T = TypeVar("_T")

TASK_STATE_RUNNING = 2
FLUSH_SECONDS = 0.5
"""Least time between two writes of a percent, and the longest that a percent stays unwritten."""

_MAX_RECORD_BYTES = 1 << 20
MAX_TEXT_LINES = 99
"""How many lines after the first one the platform reads."""


class YmirTask(IntEnum):
    """The three tasks, as the progress functions number them."""

    TRAINING = 1
    MINING = 2
    INFER = 3


BOTH = "mining+infer"
"""The task of a program that mines and infers in one pass over the images."""

_TASK_NAMES: Dict[int, str] = {task: task.name.lower() for task in YmirTask}


class Record(NamedTuple):
    """The content of monitor.txt (contract 8.1).

    Attributes:
        task_id: The task.
        timestamp: Seconds since 1970; the platform notices a change of this number only.
        percent: Fraction done, 0..1.
        state: 0 unknown, 1 pending, 2 running, 3 done, 4 error. 4 is final once the platform has seen it.
        return_code: 0, or the platform's number of the failure.
        message: The reason, one line.
        lines: What follows the first line: a traceback, say.
    """

    task_id: str
    timestamp: float
    percent: float
    state: int = int(ExecutorState.ES_RUNNING)
    return_code: int = 0
    message: str = ""
    lines: Tuple[str, ...] = ()

    def to_text(self) -> str:
        """The file's text; the message column appears only with a message, as older readers expect five columns."""
        task_id = one_line(self.task_id) or "-"    # the platform strips the line: an empty column would shift the others
        head = [task_id, f"{self.timestamp:.6f}", f"{self.percent:.2f}", str(int(self.state)), str(int(self.return_code))]
        if self.message:
            head.append(one_line(self.message))
        lines = self.lines[:MAX_TEXT_LINES] or ((one_line(self.message),) if self.message else ())    # the page shows these lines only
        return "\n".join(["\t".join(head), *lines]) + "\n"


def parse_record(text: str) -> Optional[Record]:
    """Read the text of a monitor.txt as the platform does; None when it would refuse it."""
    lines = text.splitlines()
    head = lines[0].strip().split("\t") if lines else []
    try:
        task_id, timestamp, percent, state = head[0], float(head[1]), float(head[2]), int(head[3])
        code = int(head[4]) if len(head) > 4 else 0
    except (IndexError, ValueError):
        return None
    if not (math.isfinite(timestamp) and math.isfinite(percent)):
        return None
    return Record(task_id, timestamp, percent, state, code, head[5] if len(head) > 5 else "", tuple(lines[1:]))


def read_record(path: _files.PathLike) -> Optional[Record]:
    """The record in a monitor.txt, or None when there is no file or no valid line in it."""
    try:
        with open(path, "rb", buffering=0) as f:
            # Not more than there is: whatever is asked for is allocated first, and this is read before each write.
            data = f.read(min(os.fstat(f.fileno()).st_size, _MAX_RECORD_BYTES))
        return parse_record(data.decode("utf-8", "replace"))
    except OSError:
        return None


_last_timestamp: Dict[str, int] = {}    # whole microseconds: the last digits of the text, which a double's sums miss


def write_record(path: _files.PathLike, record: Record, *, in_place: bool = False) -> Record:
    """Replace a monitor.txt in one step.

    Args:
        path: The file; its folder must exist.
        record: What to write; its timestamp is moved on when the file already holds the same or a later one.
        in_place: Overwrite the file where it lies, as `_files.overwrite_bytes` does.

    Returns:
        The record as written.

    Raises:
        StorageError: It could not be written.
    """
    key = os.fspath(path)
    if key not in _last_timestamp:
        earlier = read_record(path)
        now = time.time()
        # A clock that was set back, or a file of the future, must not hide our lines; beyond a day it is not to be believed.
        _last_timestamp[key] = _microseconds(earlier.timestamp) if earlier and earlier.timestamp < now + 86400 else 0
    stamp = max(_microseconds(record.timestamp), _last_timestamp[key] + 1)
    record = record._replace(timestamp=stamp / 1_000_000)
    data = record.to_text().encode("utf-8", "replace")
    if in_place:
        _files.overwrite_bytes(path, data)
    else:
        _files.write_bytes(path, data, sync=False, shared=True)
    _last_timestamp[key] = stamp
    return record


def _microseconds(seconds: float) -> int:
    return round(seconds * 1_000_000)


def write_failure(path: _files.PathLike, task_id: str, failure: Failure, lines: Sequence[str] = (),
                  percent: Optional[float] = None) -> Record:
    """Leave the final word of a task that failed: state 4, the platform's code, the reason, and the traceback's lines.

    A full disk is a common reason to fail, so on one the first line is written over the earlier one, where there is room for it.

    Args:
        path: The monitor file.
        task_id: The task.
        failure: Code and reason, of `errors.classify`.
        lines: The traceback or the last output.
        percent: Fraction done, 0..1; as the file says when None.
    """
    if percent is None:
        earlier = read_record(path)
        percent = min(max(earlier.percent, 0.0), 1.0) if earlier else 0.0
    state, code = int(ExecutorState.ES_ERROR), int(failure.code)
    with _writer.lock:
        _writer.pending = None
        _writer.last = (os.fspath(path), Record(task_id, 0.0, percent, state, code))    # no percent comes after it
        record = Record(task_id, time.time(), percent, state, code, failure.reason, tuple(lines))
        try:
            return write_record(path, record)
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return write_record(path, record._replace(lines=()), in_place=True)


def _is_final(before: Record, record: Record) -> bool:
    """A failure is a task's last word; only another failure may follow."""
    return before.state == ExecutorState.ES_ERROR != record.state and one_line(before.task_id) == one_line(record.task_id)


class _Throttle:
    """Writes a record at once when enough time has passed or it is more than a new percent, else soon, from a thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.lock = RLock()
        self.pending: Optional[Tuple[str, Record]] = None
        self.last: Optional[Tuple[str, Record]] = None
        self.next_write = 0.0
        self.next_warning = 0.0
        self.wake: Optional[threading.Event] = None

    def put(self, path: str, record: Record) -> None:
        """Write now or soon. Progress that cannot be written is no reason to end a training; an error that cannot, is raised."""
        try:
            self._put(path, record)
        except StorageError as e:
            if record.state != TASK_STATE_RUNNING:
                raise
            self._warn(e)

    def _warn(self, error: StorageError) -> None:
        """Once a minute: it will not be the last call."""
        now = time.monotonic()
        if now >= self.next_warning:
            self.next_warning = now + 60.0
            import logging
            logging.getLogger(__name__).warning("progress was not written: %s", error)

    def _put(self, path: str, record: Record) -> None:
        with self.lock:
            latest = self.pending or self.last
            if latest is not None and latest[0] == path:
                before = latest[1]
                if record.state == before.state and record.task_id == before.task_id:
                    if record.percent < before.percent:    # progress never goes back while a task runs
                        record = record._replace(percent=before.percent)
                    # A failure's reason is not for later.
                    says_more = record.state != TASK_STATE_RUNNING and record.message != before.message
                    if record.return_code == before.return_code and not says_more and time.monotonic() < self.next_write:
                        if self.pending is None:
                            self._wake_thread()
                        self.pending = (path, record)
                        return
                if self._is_overtaken(path, record):
                    return
            try:
                self._write(path, record)
            except StorageError:
                if record.state == TASK_STATE_RUNNING:    # it may be the last call: the thread tries again
                    self._wake_thread()
                    self.pending = (path, record)
                raise

    def _wake_thread(self) -> None:
        if self.wake is None:
            import threading
            self.wake = threading.Event()
            threading.Thread(target=self._flush_loop, args=(self.wake,), name="ymir-monitor", daemon=True).start()
            _flush_at_end_of_worker()
        self.wake.set()

    def _write(self, path: str, record: Record) -> None:
        self.next_write = time.monotonic() + FLUSH_SECONDS
        write_record(path, record)
        self.last = (path, record)
        self.pending = None

    def flush(self) -> None:
        with self.lock:
            if self.pending is not None and not self._is_overtaken(*self.pending):
                self._write(*self.pending)

    def _is_overtaken(self, path: str, record: Record) -> bool:
        """Whether the file tells of the task's failure, whoever wrote it."""
        found = read_record(path) if record.state != ExecutorState.ES_ERROR else None
        if found is None or not _is_final(found, record):
            return False
        self.pending = None
        return True

    def _flush_loop(self, wake: threading.Event) -> None:
        while True:
            wake.wait()
            wake.clear()
            delay = self.next_write - time.monotonic()
            if delay > 0:
                time.sleep(delay)
            try:
                self.flush()
            except StorageError as e:
                self._warn(e)
                wake.set()


_writer = _Throttle()
os.register_at_fork(after_in_child=_writer.reset)    # the thread stays behind, and the lock may be held


def _flush_at_exit() -> None:
    with contextlib.suppress(OSError):
        _writer.flush()


atexit.register(_flush_at_exit)


def _flush_at_end_of_worker() -> None:
    """The children of `multiprocessing` end without calling what `atexit` knows."""
    if "multiprocessing.util" in sys.modules:
        from multiprocessing.util import Finalize
        Finalize(None, _flush_at_exit, exitpriority=0)


def write_monitor_logger(percent: float, state: ExecutorState = ExecutorState.ES_RUNNING,
                         return_code: ExecutorReturnCode = ExecutorReturnCode.RC_EXEC_NO_ERROR, message: str = "") -> None:
    """Report progress, or a failure.

    Args:
        percent: Fraction of the task that is done, 0..1; clamped. Anything that `float()` takes.
        state: 2 running, 4 error. The platform fails the task for good once it has seen 4.
        return_code: The platform's number of the failure; 0 is written for a task that runs.
        message: The reason of a failure, one line.

    Progress never goes back within a process, and a disk that is full does not end the program for it: that is said in the log.

    Raises:
        ArgumentError: percent is NaN or no number, state none of 0..4, or return_code no number.
        StorageError: An error could not be written.
    """
    if not env.is_main_rank():
        return
    try:
        value = float(percent)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(f"the progress is {percent!r:.80}, a number is wanted; nothing was written") from None
    if math.isnan(value):
        raise ArgumentError("the progress is NaN; nothing was written")
    try:
        number, code = int(state), int(return_code)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(f"state {state!r:.80} and return_code {return_code!r:.80} must be numbers; nothing was written") from None
    if not 0 <= number <= 4:    # the platform would fail the task for good
        raise ArgumentError(f"the state is {number}, one of 0..4 is wanted; nothing was written")
    current = env.current_env()
    code = code if number != TASK_STATE_RUNNING else 0    # the platform would show it as the running task's failure
    value = value if 0.0 < value < 1.0 else 1.0 if value >= 1.0 else 0.0
    _writer.put(current.output.monitor_file, Record(current.task_id, time.time(), value, number, code, message))


def task_percent(cfg: env.EnvConfig, task: Union[YmirTask, str], percent: float, order: str = "tmi") -> float:
    """Where a fraction of one task stands in the whole container run.

    With mining and inference in one container the first of them fills 0 to 0.5 and the second 0.5 to 1.

    Args:
        cfg: The task's description; its `run_*` flags count.
        task: 'training', 'mining', 'infer', or a `YmirTask`; 'mining+infer' where one pass over the images does both.
        percent: Fraction of this task, 0..1.
        order: 'tmi' (mining first) or 'tim' (inference first).

    Raises:
        ArgumentError: An unknown task or order, or a percent outside 0..1.
    """
    name = task.lower() if isinstance(task, str) else _TASK_NAMES.get(task)
    if name not in (*_TASK_NAMES.values(), BOTH):
        raise ArgumentError(f"unknown task {task!r}: must be training, mining, infer or {BOTH}")
    if not 0 <= percent <= 1:
        raise ArgumentError(f"percent must be in [0, 1], not {percent!r}")
    if order not in ("tmi", "tim"):
        raise ArgumentError(f"unknown order {order!r}: must be tmi (mining first) or tim (inference first)")
    if not (cfg.run_mining and cfg.run_infer) or name == BOTH:
        return percent
    first = "mining" if order == "tmi" else "infer"
    return 0.5 * percent if name == first else 0.5 + 0.5 * percent


def write_monitor_logger_for_multiple_tasks(cfg: Any, task: Union[YmirTask, str], percent: float, order: str = "tmi") -> None:
    """Report progress of one task of a container that may run two; see `task_percent`.

    Args:
        cfg: What `util.get_merged_config()` returned.
        task: 'training', 'mining', 'infer', or a `YmirTask`.
        percent: Fraction of this task, 0..1.
        order: 'tmi' (mining first) or 'tim' (inference first).

    Raises:
        ArgumentError: An unknown task or order, or a percent outside 0..1.
    """
    write_monitor_logger(percent=task_percent(cfg.ymir, task, percent, order))


def track(iterable: Iterable[_T], task: Union[YmirTask, str], *, total: Optional[int] = None, start: float = 0.0, end: float = 1.0,
          order: str = "tmi", on_step: Optional[Callable[[float], None]] = None) -> Iterator[_T]:
    """Iterate and report progress.

        for batch in monitor.track(batches, "infer"):
            ...

    Args:
        iterable: Anything; without a length give `total`.
        task: 'training', 'mining', 'infer', or a `YmirTask`.
        total: Number of items, when `len(iterable)` does not tell.
        start: The task's fraction before the first item.
        end: The task's fraction after the last item.
        order: 'tmi' (mining first) or 'tim' (inference first), for containers that run both.
        on_step: Also called with the task's fraction after each item.

    Yields:
        The items.
    """
    current = env.current_env()
    count = len(iterable) if total is None and isinstance(iterable, Sized) else total
    for done, item in enumerate(iterable, 1):
        yield item
        if count:
            percent = start + (end - start) * min(done / count, 1.0)
            write_monitor_logger(task_percent(current, task, percent, order))
            if on_step is not None:
                on_step(percent)
    write_monitor_logger(task_percent(current, task, end, order))


_stop_signal: List[int] = []
_stop_handler_set = False


def should_stop() -> bool:
    """True once this process was asked to stop (SIGTERM): save what is worth saving and raise `errors.Stopped`.

    The first call, from the main thread, takes the signal over; until then SIGTERM ends the process as ever. Docker grants ten seconds
    between the request and the end.
    """
    global _stop_handler_set
    import signal
    import threading
    if not _stop_handler_set and threading.current_thread() is threading.main_thread():
        previous = signal.getsignal(signal.SIGTERM)

        def on_stop(number: int, frame: Any) -> None:
            _stop_signal.append(number)
            if callable(previous):
                previous(number, frame)

        signal.signal(signal.SIGTERM, on_stop)
        _stop_handler_set = True
    return bool(_stop_signal)


def write_tensorboard_text(text: str, tag: Optional[str] = None) -> None:
    """Add a text to the task's TensorBoard folder.

    Args:
        text: Shown as it is, in a block of fixed width.
        tag: The heading; 'default' when None.

    Raises:
        StorageError: It cannot be written.
    """
    if not env.is_main_rank():
        return
    folder = env.current_env().output.tensorboard_dir
    try:
        _tensorboard_writer(folder)(tag or "default", f"```\n{text}\n```")
    except OSError as e:
        raise e if isinstance(e, StorageError) else _files.storage_error(folder, e) from e


def write_final_executor_log(tag: Optional[str] = None) -> None:
    """Add the end of the container's log to TensorBoard, where it exists.

    Args:
        tag: The heading; 'default' when None.
    """
    path = env.current_env().output.executor_log_file
    with contextlib.suppress(OSError), open(path, "rb") as f:
        f.seek(max(0, os.path.getsize(path) - (1 << 18)))
        write_tensorboard_text(f.read().decode("utf-8", "replace"), tag)


_tensorboard: Dict[str, Tuple[int, Callable[[str, str], None]]] = {}


def _tensorboard_writer(folder: str) -> Callable[[str, str], None]:
    """One event file a folder and process, without the thread of TensorBoard's own writer; TensorBoard is loaded with the first."""
    known = _tensorboard.get(folder)
    if known is not None and known[0] == os.getpid():
        return known[1]
    import socket

    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.plugins.text import metadata
    from tensorboard.summary.writer.record_writer import RecordWriter
    _files.make_folder(folder)
    name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{os.urandom(3).hex()}"
    file = open(os.path.join(folder, name), "xb")    # noqa: SIM115 - open as long as the process lives
    atexit.register(file.close)
    writer = RecordWriter(file)
    writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    summary_metadata = metadata.create_summary_metadata(display_name="", description="")
    blank = Summary.Value(metadata=summary_metadata, tensor=TensorProto(dtype="DT_STRING", string_val=[b""], tensor_shape=shape))
    model = Event(step=0, summary=Summary(value=[blank]))

    def add(tag: str, text: str) -> None:
        event = Event()
        event.CopyFrom(model)    # ten times as quick as building one
        event.wall_time = time.time()
        value = event.summary.value[0]
        value.tag = f"{tag}/text_summary"
        value.tensor.string_val[0] = text.encode("utf-8", "replace")
        writer.write(event.SerializeToString())
        writer.flush()

    _tensorboard[folder] = (os.getpid(), add)
    return add
