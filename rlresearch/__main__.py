"""`python -m rlresearch`."""

from rlresearch.cli.main import command, main

__all__ = ["command", "main"]

if __name__ == "__main__":
    command()
