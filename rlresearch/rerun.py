"""`python -m rlresearch.rerun RUN`."""

import sys

from rlresearch.cli.rerun import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
