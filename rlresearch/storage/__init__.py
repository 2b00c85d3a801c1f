"""What a run writes to the disk, and how it is written so that nothing is lost."""
