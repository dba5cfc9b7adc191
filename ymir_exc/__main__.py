"""`python -m ymir_exc` is `ymir-exc`."""
import sys

from ymir_exc.cli import main

if __name__ == "__main__":
    sys.exit(main())
