"""The commands, from the words that were typed to an exit code."""
