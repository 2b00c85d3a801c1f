"""Files of a run: how they are written, so that a crash loses nothing, and how they are read."""
