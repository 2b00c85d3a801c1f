"""Reading run directories: index, filters, curves, other people's files."""
