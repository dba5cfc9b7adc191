"""`python -m ymir_exc.platforms.ti`: what `train` starts in an image that has no program of its own, unless the job names a script."""
from __future__ import annotations

import sys
import traceback

from ymir_exc.errors import ConfigError, exit_status


def main() -> int:
    """Say what is missing."""
    try:
        raise ConfigError("there is nothing to run: the image has no /app/start.py, and the job names no script",
                          hint="name one by the hyper-parameter ti_program or the environment variable TI_PROGRAM")
    except ConfigError as e:
        traceback.print_exc()
        return exit_status(e)


if __name__ == "__main__":
    sys.exit(main())
