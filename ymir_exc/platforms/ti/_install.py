"""`python -m ymir_exc.platforms.ti._install REQUIREMENTS PROGRAM ...`: install what the user's script asks for, then become that script.

A process of its own, so that pip's output is the container's, a stop ends pip, and its last words are the reason of a failure.
"""
from __future__ import annotations

import os
import subprocess
import sys
from typing import Sequence


def main(requirements: str, program: Sequence[str]) -> int:
    """Does not return when pip succeeds; else its exit status."""
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "-r", requirements])
    if done.returncode == 0:
        os.execvp(program[0], list(program))    # noqa: S606 - no shell is wanted
    return done.returncode if done.returncode > 0 else 128 - done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
