"""The tree of errors, and what foreign failures mean to the platform."""
from __future__ import annotations

import inspect
import pickle

import pytest

from ymir_exc import errors
from ymir_exc.code import ExecutorReturnCode as RC
from ymir_exc.code import ExecutorState

TREE = {
    "ConfigError": (300001, 4, ValueError), "DatasetError": (300002, 4, ValueError), "ImageError": (300003, 1, ValueError),
    "WeightsError": (300004, 1, ValueError), "ObjectTypeError": (300005, 4, ValueError), "GpuError": (300101, 1, RuntimeError),
    "NoGpuError": (300102, 1, RuntimeError), "OutOfMemoryError": (300103, 1, RuntimeError), "NanError": (300201, 1, ArithmeticError),
    "NetworkError": (300301, 1, OSError), "ResultError": (160004, 1, ValueError),
    "MissingKeyError": (300001, 4, AttributeError),
    "UnknownDatasetError": (300002, 4, KeyError), "NoWeightsGivenError": (300004, 1, AttributeError),
    "ArgumentError": (160004, 1, AssertionError), "UnknownStageError": (160004, 1, NotImplementedError),
    "StorageError": (160004, 1, OSError), "ProgramError": (160004, 1, RuntimeError),
    "Stopped": (160004, 143, RuntimeError), "YmirError": (160004, 1, Exception),
}


def all_errors():
    return {name: kind for name, kind in vars(errors).items()
            if inspect.isclass(kind) and issubclass(kind, errors.YmirError)}


def test_the_tree_is_exactly_this_and_drawn_in_the_docstring():
    assert set(all_errors()) == set(TREE)
    for name, (code, _, builtin) in TREE.items():
        drawn = next(line for line in errors.__doc__.splitlines() if line.lstrip("│├└─ ").startswith(name + " "))
        assert str(code) in drawn
        assert builtin is Exception or builtin.__name__ in drawn or name in ("NoGpuError", "OutOfMemoryError")


@pytest.mark.parametrize("name", TREE)
def test_each_error_carries_its_code_and_survives_a_pickle(name):
    code, exit_code, builtin = TREE[name]
    error = getattr(errors, name)("what happened", hint="what to do")
    assert (error.return_code, error.exit_code) == (code, exit_code)
    assert isinstance(error, builtin)
    assert str(error) == "what happened (what to do)"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert errors.classify(error) == (code, "what happened (what to do)")
    assert errors.exit_status(error) == exit_code


class UnidentifiedImageError(OSError):
    pass


class URLError(OSError):
    pass


@pytest.mark.parametrize(("error", "code"), [
    (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), RC.RC_EXEC_OOM),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory"), RC.RC_EXEC_OOM),
    (MemoryError(), RC.RC_EXEC_OOM),
    (OSError(12, "Cannot allocate memory"), RC.RC_EXEC_OOM),
    (RuntimeError("No CUDA GPUs are available"), RC.RC_EXEC_NO_GPU),
    (RuntimeError("CUDA error: invalid device ordinal"), RC.RC_EXEC_NO_GPU),
    (AssertionError("Torch not compiled with CUDA enabled"), RC.RC_EXEC_NO_GPU),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), RC.RC_EXEC_CUDA_GPU_ERROR),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), RC.RC_EXEC_CUDA_GPU_ERROR),
    (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:825"), RC.RC_EXEC_CUDA_GPU_ERROR),
    (FloatingPointError("Loss became infinite or NaN at iteration=10!"), RC.RC_EXEC_NAN_ERROR),
    (ValueError("loss is nan, stopping training"), RC.RC_EXEC_NAN_ERROR),
    (UnidentifiedImageError("cannot identify image file '/in/assets/a.jpg'"), RC.RC_EXEC_UNKNOWN_IMAGE_FORMAT),
    (OSError("image file is truncated (4 bytes not processed)"), RC.RC_EXEC_UNKNOWN_IMAGE_FORMAT),
    (URLError("<urlopen error [Errno -3] Temporary failure in name resolution>"), RC.RC_EXEC_NETWORK_ERROR),
    (ConnectionRefusedError(111, "Connection refused"), RC.RC_EXEC_NETWORK_ERROR),
    (OSError(28, "No space left on device"), RC.RC_CMD_CONTAINER_ERROR),
    (KeyError("nan_policy"), RC.RC_CMD_CONTAINER_ERROR),
    (ValueError("cannot find banana in finance.csv"), RC.RC_CMD_CONTAINER_ERROR),
])
def test_foreign_failures(error, code):
    found = errors.classify(error)
    assert found.code == code
    assert type(error).__name__ in found.reason


def test_the_cause_decides_when_the_error_itself_says_nothing():
    try:
        try:
            raise errors.NoGpuError("gpu_id is '3'")
        except errors.NoGpuError as inner:
            raise RuntimeError("worker failed") from inner
    except RuntimeError as outer:
        assert errors.classify(outer) == (300102, "gpu_id is '3'")
        assert errors.exit_status(outer) == 1


class Group(Exception):
    """As Python's own of 3.11."""

    def __init__(self, *exceptions):
        super().__init__("unhandled errors")
        self.exceptions = exceptions


class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def test_the_members_of_a_group_decide():
    assert errors.classify(Group(KeyError("x"), Group(MemoryError()))) == (300103, "Group: unhandled errors")
    assert errors.classify(Group(errors.NanError("loss is NaN"))) == (300201, "loss is NaN")
    assert errors.exit_status(Group(errors.DatasetError("no images"))) == 4
    odd = Group()
    odd.exceptions = "of another program"
    assert errors.classify(odd) == (160004, "Group: unhandled errors")
    odd.exceptions = (odd, odd)
    assert errors.classify(odd).code == 160004


def test_an_exception_without_words():
    assert errors.classify(Silent()) == (160004, "Silent")
    error = Silent()
    error.__cause__ = MemoryError()
    assert errors.classify(error) == (300103, "Silent")
    assert errors.classify(errors.DatasetError(3)) == (300002, "DatasetError")    # type: ignore[arg-type]


def test_the_status_of_sys_exit():
    assert [errors.exit_status(SystemExit(code)) for code in (3, "words", 0)] == [3, 1, 0]


def test_a_reason_is_never_empty_and_always_one_line():
    assert errors.classify(ValueError()).reason == "ValueError"
    assert errors.classify(ValueError("a\n\tb\x00c")).reason == "ValueError: a b c"
    assert len(errors.classify(ValueError("x" * 10_000)).reason) <= 400
    assert errors.classify(KeyboardInterrupt()) == (160004, "stopped by SIGINT")
    assert errors.exit_status(KeyboardInterrupt()) == 130


TRACEBACK = """some log
Traceback (most recent call last):
  File "/app/train.py", line 3, in <module>
    main()
ymir_exc.errors.NoGpuError: gpu_id is '0' but there is no GPU (ask for none)
Traceback (most recent call last):
  File "/app/start.py", line 9, in <module>
    raise CalledProcessError(retcode, process.args,
subprocess.CalledProcessError: Command '['python3', 'train.py']' returned non-zero exit status 1.
"""


def test_the_last_words_of_a_program():
    assert errors.classify_text(TRACEBACK) == (300102, "gpu_id is '0' but there is no GPU (ask for none)")
    assert errors.classify_text("epoch 1\repoch 2\ntorch.cuda.OutOfMemoryError: CUDA out of memory.\nbye\n").code == 300103
    assert errors.classify_text("sh: 1: foo: not found\n\n") == (160004, "sh: 1: foo: not found")
    assert errors.classify_text(" \n") is None
    # An exception of the same name that is not ours, and words of a log before the real exception.
    assert errors.classify_text("CUDA out of memory, retrying\n" + TRACEBACK).code == 300102
    foreign = 'Traceback (most recent call last):\n  File "x"\nother.ConfigError: no\n'
    assert errors.classify_text(foreign) == (160004, "other.ConfigError: no")


def test_whoever_lost_its_peer_knows_no_reason():
    lost = "Traceback (most recent call last):\n  File 'x'\nRuntimeError: [gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:10\n"
    assert errors.classify_text(TRACEBACK + lost) == errors.classify_text(TRACEBACK)
    assert errors.classify_text("CUDA out of memory\n" + lost) == (300103, "CUDA out of memory")
    table = lost + "Traceback (most recent call last):\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n=====\n"
    assert errors.classify_text(table) == (160004, "RuntimeError: [gloo/pair.cc:553] Connection closed by peer [127.0.0.1]:10")


@pytest.mark.parametrize(("reason", "lost"), [
    ("RuntimeError: [gloo/pair.cc:537] Read error [127.0.0.1]:404: Connection reset by peer.", True),
    ("torch.distributed.DistBackendError: NCCL error in: x.cpp:3, ncclRemoteError: A call failed possibly due to a network error", True),
    ("DistNetworkError: failed to recv, got 0 bytes", True),
    ("ConnectionResetError: [Errno 104] Connection reset by peer", False),
    ("RuntimeError: CUDA out of memory", False),
])
def test_who_lost_its_peer(reason, lost):
    assert errors.is_lost_peer(reason) is lost


def test_traceback_lines_are_the_last_traceback():
    assert errors.traceback_lines(TRACEBACK)[0] == "Traceback (most recent call last):"
    assert errors.traceback_lines(TRACEBACK)[-1].startswith("subprocess.CalledProcessError")
    assert errors.traceback_lines("a\nb\x07\n") == ["a", "b?"]
    assert len(errors.traceback_lines("x\n" * 500)) == 90


def test_codes_format_as_digits():
    assert f"{RC.RC_EXEC_OOM}" == str(RC.RC_EXEC_OOM) == "300103"
    assert f"{ExecutorState.ES_ERROR:>3}" == "  4"
    assert RC.RC_EXEC_OOM.short_name == "OOM"
    assert RC.RC_CMD_CONTAINER_ERROR.short_name == "CONTAINER_ERROR"
