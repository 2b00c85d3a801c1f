"""Reads run directories: index, filters, groups, curves, and files of other programs."""
