"""`python -m rlresearch.export RUN FOLDER`."""

import sys

from rlresearch.cli.export import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
