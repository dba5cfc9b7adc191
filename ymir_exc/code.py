"""States and return codes that the platform reads from monitor.txt (its own numbers, of 2023 and later)."""
from enum import IntEnum


class _Digits(IntEnum):
    """An IntEnum that formats as its number on every Python: `f"{state}"` changed its meaning in 3.12."""

    def __str__(self) -> str:
        return str(int(self))

    def __format__(self, spec: str) -> str:
        return format(int(self), spec)


class ExecutorState(_Digits):
    """Column 4 of monitor.txt."""

    ES_RUNNING = 2
    ES_ERROR = 4


class ExecutorReturnCode(_Digits):
    """Column 5 of monitor.txt; the platform shows its own text for each number."""

    RC_EXEC_NO_ERROR = 0
    RC_EXEC_CONFIG_ERROR = 300001
    RC_EXEC_DATASET_ERROR = 300002
    RC_EXEC_UNKNOWN_IMAGE_FORMAT = 300003
    RC_EXEC_MODEL_ERROR = 300004
    RC_EXEC_OBJECT_TYPE_ERROR = 300005
    RC_EXEC_CUDA_GPU_ERROR = 300101
    RC_EXEC_NO_GPU = 300102
    RC_EXEC_OOM = 300103
    RC_EXEC_NAN_ERROR = 300201
    RC_EXEC_NETWORK_ERROR = 300301
    RC_CMD_CONTAINER_ERROR = 160004

    @property
    def short_name(self) -> str:
        """The name without its prefix, such as `CONFIG_ERROR`."""
        return self.name.replace("RC_EXEC_", "").replace("RC_CMD_", "")
