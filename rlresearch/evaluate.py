"""`python -m rlresearch.evaluate RUN`."""

import sys

from rlresearch.cli.evaluate import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
