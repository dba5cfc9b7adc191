"""Every failure that this package raises, and what foreign failures mean to the platform.

```
YmirError                            160004   something in the container failed
├── ConfigError      ValueError      300001   env.yaml, config.yaml or a template is wrong
│   └── MissingKeyError  AttributeError  300001   a program asked for a hyper-parameter that config.yaml lacks
├── DatasetError     ValueError      300002   an index file or an annotation is missing, empty or malformed
│   └── UnknownDatasetError  KeyError      300002   there is no index file of this type
├── ImageError       ValueError      300003   an image cannot be decoded
├── WeightsError     ValueError      300004   no usable model file
│   └── NoWeightsGivenError  AttributeError  300004   config.yaml names no model
├── ObjectTypeError  ValueError      300005   the image does not support this kind of annotation
├── GpuError         RuntimeError    300101   CUDA or a GPU failed
│   ├── NoGpuError                   300102   a GPU was asked for and is not there
│   └── OutOfMemoryError             300103   GPU or host memory ran out
├── NanError         ArithmeticError 300201   the loss or a metric is not finite
├── NetworkError     OSError         300301   a download failed
├── ArgumentError    AssertionError  160004   a function was called with an argument that means nothing to it; a ValueError too
│   └── UnknownStageError    NotImplementedError  160004   a stage that is none of the three
├── ResultError      ValueError      160004   a value handed to a result writer is not acceptable to the platform
├── StorageError     OSError         160004   an output cannot be written: disk full, read-only, no permission
├── ProgramError     RuntimeError    160004   a program started by this package failed
└── Stopped          RuntimeError    160004   the task was asked to stop (SIGTERM, SIGINT) and did
```

The second column is the builtin type that older callers catch. Every class carries `return_code` (the platform's number, column 5 of
monitor.txt), `exit_code` (this process's status) and `hint` (what to do, in one sentence).

`classify` says the same of exceptions that are not ours, `classify_text` of the last words of a program that died.
"""
from __future__ import annotations

import errno
import re
import warnings
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Type

from ymir_exc.code import ExecutorReturnCode as RC

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_CONTRACT = 4
EXIT_INTERRUPTED = 130
EXIT_STOPPED = 143


class YmirError(Exception):
    """Base of the tree in the module's docstring.

    Args:
        message: What happened, in which file and key or line.
        hint: What to do about it, in one sentence.

    Of a failure that another process has told of, `lines` is the traceback there.
    """

    return_code: RC = RC.RC_CMD_CONTAINER_ERROR
    exit_code: int = EXIT_FAILED
    lines: Sequence[str] = ()

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> Tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: Type[YmirError], message: str, hint: str) -> YmirError:
    return kind(message, hint=hint)


class ConfigError(YmirError, ValueError):
    """env.yaml, config.yaml or a template is missing, unreadable or wrong."""

    return_code = RC.RC_EXEC_CONFIG_ERROR
    exit_code = EXIT_CONTRACT


class MissingKeyError(ConfigError, AttributeError):
    """A program asked for a hyper-parameter that config.yaml lacks."""


class DatasetError(YmirError, ValueError):
    """An index file or an annotation is missing, empty or malformed."""

    return_code = RC.RC_EXEC_DATASET_ERROR
    exit_code = EXIT_CONTRACT


class UnknownDatasetError(DatasetError, KeyError):
    """There is no index file of this type."""


class ImageError(YmirError, ValueError):
    """An image cannot be decoded."""

    return_code = RC.RC_EXEC_UNKNOWN_IMAGE_FORMAT


class WeightsError(YmirError, ValueError):
    """No usable model file was given."""

    return_code = RC.RC_EXEC_MODEL_ERROR


class NoWeightsGivenError(WeightsError, AttributeError):
    """Mining or inference, and config.yaml names no model."""


class ObjectTypeError(YmirError, ValueError):
    """The platform asks for a kind of annotation that the image does not support."""

    return_code = RC.RC_EXEC_OBJECT_TYPE_ERROR
    exit_code = EXIT_CONTRACT


class GpuError(YmirError, RuntimeError):
    """CUDA, the driver or a GPU failed."""

    return_code = RC.RC_EXEC_CUDA_GPU_ERROR


class NoGpuError(GpuError):
    """`gpu_id` asks for a GPU that this container does not have."""

    return_code = RC.RC_EXEC_NO_GPU


class OutOfMemoryError(GpuError):
    """GPU memory or the container's memory ran out."""

    return_code = RC.RC_EXEC_OOM


class NanError(YmirError, ArithmeticError):
    """A loss, a weight or a metric is NaN or infinite."""

    return_code = RC.RC_EXEC_NAN_ERROR


class NetworkError(YmirError, OSError):
    """Something could not be downloaded."""

    return_code = RC.RC_EXEC_NETWORK_ERROR


class ArgumentError(YmirError, ValueError, AssertionError):
    """A function of this package was called with an argument that means nothing to it."""


class UnknownStageError(ArgumentError, NotImplementedError):
    """A stage that is neither preprocess, task nor postprocess."""


class ResultError(YmirError, ValueError):
    """A value handed to a result writer would be refused by the platform; nothing was written."""


class StorageError(YmirError, OSError):
    """An output file cannot be written; the earlier content, if any, is intact."""


class ProgramError(YmirError, RuntimeError):
    """A program started by this package failed."""


class Stopped(YmirError, RuntimeError):
    """The task was asked to stop and did so in order."""

    exit_code = EXIT_STOPPED


_deprecated: Set[str] = set()


def deprecated(name: str, instead: str, stacklevel: int = 3) -> None:
    """Warn of an older call, once a process, at the line that made it: by default the caller of the function that calls this."""
    if name not in _deprecated:
        _deprecated.add(name)
        warnings.warn(f"{name} is deprecated: {instead}", DeprecationWarning, stacklevel=stacklevel)


class Failure(NamedTuple):
    """What the platform is told: its number and one line of reason."""

    code: RC
    reason: str


_TREE: Dict[str, Type[YmirError]] = {}


def _tree() -> Dict[str, Type[YmirError]]:
    """Class name to class, of the whole tree."""
    if not _TREE:
        pending: List[Type[YmirError]] = [YmirError]
        while pending:
            kind = pending.pop()
            _TREE[kind.__name__] = kind
            pending.extend(kind.__subclasses__())
    return _TREE


# Words of other people's errors, most specific first. Each was read in the source or the output of the named program.
_FOREIGN: Sequence[Tuple[RC, str]] = (
    (RC.RC_EXEC_OOM, r"CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED"
                     r"|OutOfMemoryError\b|DefaultCPUAllocator: can't allocate memory|\bMemoryError\b"
                     r"|Cannot allocate memory|insufficient shared memory|ResourceExhaustedError|RESOURCE_EXHAUSTED"),
    (RC.RC_EXEC_NO_GPU, r"No CUDA GPUs are available|no CUDA-capable device|CUDA_ERROR_NO_DEVICE|invalid device ordinal"
                        r"|Found no NVIDIA driver|Torch not compiled with CUDA enabled|CUDA_ERROR_INVALID_DEVICE"
                        r"|Invalid device string"),
    (RC.RC_EXEC_CUDA_GPU_ERROR, r"CUDA error|cudaError|CUDNN_STATUS|CUBLAS_STATUS|NCCL (?:error|failure)|ncclSystemError"
                                r"|device-side assert|CUDA driver version is insufficient|uncorrectable ECC"),
    (RC.RC_EXEC_NAN_ERROR, r"(?:loss|gradient|weight|output)s? (?:is|are|became|becomes|contains?) (?:nan|inf)\b|\bnan loss"
                           r"|Loss is (?:nan|inf)|returned nan values|FloatingPointError|Input contains NaN"),
    (RC.RC_EXEC_UNKNOWN_IMAGE_FORMAT, r"UnidentifiedImageError|cannot identify image file|image file is truncated"
                                      r"|DecompressionBombError|broken data stream when reading image"),
    (RC.RC_EXEC_NETWORK_ERROR, r"\bURLError\b|ConnectionError\b|ConnectTimeout\b|ReadTimeout\b|MaxRetryError"
                               r"|Name or service not known|Temporary failure in name resolution|SSLError\b"
                               r"|Network is unreachable|ConnectionRefusedError|ConnectionResetError|\bHTTPError\b"),
)
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)

# An exception line of a traceback: a dotted name, perhaps a message. Wrappers say only that something below them failed.
_EXCEPTION_LINE = re.compile(r"^(?:[A-Za-z_][\w]*\.)*([A-Z_][A-Za-z0-9_]*)(?:: (.*))?$")
_WRAPPERS = frozenset({"CalledProcessError", "ChildFailedError", "ProcessRaisedException", "ProcessExitedException", "SystemExit"})

# What one of several processes says when another one is gone; read in the sources of gloo, NCCL and torch's TCPStore.
_LOST_PEER = (r"^(?:torch\.distributed\.)?(?:RuntimeError|Dist\w*Error): .*(?:Connection (?:closed|reset) by peer|Connection refused"
              r"|Connection was likely closed|Broken pipe|Socket closed|pair closure|got 0 bytes|(?:recv|send)(?:Value|Bytes)? failed"
              r"|remote process exited|ncclRemoteError|communicator was aborted)")
_TRACEBACK = "Traceback (most recent call last):"


def one_line(text: str, limit: int = 400) -> str:
    """The text without line breaks, tabs and control characters, cut to `limit` characters: it becomes column 6 of monitor.txt."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def classify(error: BaseException) -> Failure:
    """Say what an exception means to the platform.

    Errors of this package carry their own code; of others the type, `errno` and message decide, and so do the exceptions they were
    raised from. What nobody knows is 160004 with the exception's own words, never "unknown error".

    Args:
        error: Any exception.

    Returns:
        The platform's return code and one line of reason.
    """
    for link in _chain(error):
        if isinstance(link, YmirError):
            return Failure(link.return_code, one_line(_words(link)) or type(link).__name__)
    words = _words(error)
    text = f"{type(error).__name__}: {words}" if words else type(error).__name__
    for link in _chain(error):
        code = _foreign_code(link)
        if code is not None:
            return Failure(code, one_line(text))
    if isinstance(error, KeyboardInterrupt):
        return Failure(RC.RC_CMD_CONTAINER_ERROR, "stopped by SIGINT")
    return Failure(RC.RC_CMD_CONTAINER_ERROR, one_line(text))


def is_lost_peer(reason: str) -> bool:
    """Whether a process failed because another one did: the line is an exception of `torch.distributed` that says so."""
    return re.search(_LOST_PEER, reason, re.IGNORECASE) is not None


def exit_status(error: BaseException) -> int:
    """The process status for an exception: its own `exit_code`, that of `sys.exit`, 130 for Ctrl-C, else 1."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else EXIT_FAILED
    for link in _chain(error):
        if isinstance(link, YmirError):
            return link.exit_code
    return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_FAILED


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, those that it groups, and those that it was raised from, nearest first."""
    seen: Set[int] = set()
    pending: List[Optional[BaseException]] = [error]
    while pending:
        link = pending.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        grouped = getattr(link, "exceptions", None)    # of an ExceptionGroup
        pending[:0] = [member for member in grouped if isinstance(member, BaseException)] if isinstance(grouped, (list, tuple)) else []
        pending.append(link.__cause__ or (None if link.__suppress_context__ else link.__context__))


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:    # the program's own, and it is this one's failure that matters
        return ""


def _foreign_code(error: BaseException) -> Optional[RC]:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return RC.RC_EXEC_OOM
    return _code_of_words(f"{type(error).__name__}: {_words(error)}")


def _code_of_words(text: str) -> Optional[RC]:
    if _NO_SPACE.search(text):
        return RC.RC_CMD_CONTAINER_ERROR
    for code, pattern in _FOREIGN:    # compiled with the first failure, and kept by `re`: a start must not pay for it
        if re.search(pattern, text, re.IGNORECASE):
            return code
    return None


def classify_text(text: str) -> Optional[Failure]:
    """Find the reason in the last output of a program that died.

    The last Python exception that is not a mere wrapper (`CalledProcessError` and the like) wins; without one, the last line with known
    words does; without either, the last line that is not blank. A process that lost its peer is believed if nobody says why that one died.

    Args:
        text: The end of the program's output, of any language.

    Returns:
        Code and one line of reason, or None when there is no text at all.
    """
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    lost = None
    for line in reversed(_exception_lines(lines)):
        match = _EXCEPTION_LINE.match(line)
        if match is None or match.group(1) in _WRAPPERS:
            continue
        if is_lost_peer(line):
            lost = lost or line
            continue
        ours = _tree().get(match.group(1)) if line.startswith("ymir_exc.errors.") else None
        if ours is not None:
            return Failure(ours.return_code, one_line(match.group(2) or ours.__name__))
        return Failure(_code_of_words(line) or RC.RC_CMD_CONTAINER_ERROR, one_line(line))
    for line in reversed(lines):
        code = _code_of_words(line)
        if code is not None:
            return Failure(code, one_line(line))
    last = lost or next((line for line in reversed(lines) if line.strip()), None)
    return Failure(RC.RC_CMD_CONTAINER_ERROR, one_line(last)) if last else None


def _exception_lines(lines: Sequence[str]) -> List[str]:
    """The lines that end a traceback: the first unindented one after its head, in the order of the output."""
    found, inside = [], False
    for line in lines:
        if line.lstrip(" |+").startswith(_TRACEBACK):
            inside = True
        elif inside and line and not line[0].isspace():
            found.append(line)
            inside = False
    return found


def traceback_lines(text: str, limit: int = 90) -> List[str]:
    """The last tracebacks in the text, or its last lines when there is none, at most `limit`, for lines 2 to 100 of monitor.txt.

    More than one, as the cause comes before what was raised from it, and a child's before its parent's.
    """
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    starts = [i for i, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    if starts:
        first = next((i for i in starts if len(lines) - i <= limit), starts[-1])
        lines = lines[first:] if len(lines) - first > 1 else lines
    kept = lines[-limit:]
    return ["".join(c if c.isprintable() or c == "\t" else "?" for c in line) for line in kept]
