"""`python -m ymir_exc.integrations.torchrun --nproc N -- PROGRAM ...`: what `ymir-exc run --nproc N` has its supervisor start."""
from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
from typing import List, Optional, Sequence

from ymir_exc import env, errors, executor
from ymir_exc.errors import EXIT_ENVIRONMENT, EXIT_USAGE, YmirError, classify, exit_status
from ymir_exc.integrations.torchrun._launch import launch

USAGE = "usage: python -m ymir_exc.integrations.torchrun --nproc N|auto -- PROGRAM [ARGUMENT ...]"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Start a program in several processes, and say how they ended.

    Args:
        argv: Without the program's name; of the process when None.

    Returns:
        0; the status of the process that failed first, on whatever host; 128 and the signal's number after a stop; 2 usage, 3 no torch.
    """
    words: List[str] = list(sys.argv[1:] if argv is None else argv)
    number, program = words[1:2], words[3:]
    if words[:1] != ["--nproc"] or words[2:3] != ["--"] or not program or not _is_number(number[0]):
        print(USAGE, file=sys.stderr)    # noqa: T201
        return EXIT_USAGE
    if importlib.util.find_spec("torch") is None:
        print(f"--nproc needs torch, and {sys.executable} has none: install it in the image, or leave --nproc out",    # noqa: T201
              file=sys.stderr)
        return EXIT_ENVIRONMENT
    logging.basicConfig(level=logging.INFO, format="ymir-exc: %(message)s", stream=sys.stderr)
    try:
        launch(program, _visible_gpus() if number[0] == "auto" else int(number[0]), keep_words=True)
    except (YmirError, OSError) as e:
        _tell(e)
        return exit_status(e)
    return 0


def _is_number(text: str) -> bool:
    return text == "auto" or (text.isdecimal() and int(text) > 0)


def _visible_gpus() -> int:
    import torch
    return max(1, torch.cuda.device_count())


def _tell(error: Exception) -> None:
    """Leave the reason where the platform looks for it; without a task, as the end of our output, in the form that the supervisor reads.

    The traceback may be that of a process on another host.
    """
    with contextlib.suppress(YmirError):
        env.current_env()
        executor.record_failure(error)
        print(error, file=sys.stderr)    # noqa: T201
        return
    code, reason = classify(error)
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, YmirError) and kind is not YmirError)
    kind = type(error) if getattr(type(error), "return_code", None) == code else next(k for k in kinds if k.return_code == code)
    lines: Sequence[str] = error.lines if isinstance(error, YmirError) else ()
    print("Traceback (most recent call last):", *(f"  {line}" for line in lines),    # noqa: T201
          f"{YmirError.__module__}.{kind.__name__}: {reason}", sep="\n", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
