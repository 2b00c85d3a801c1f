"""The page: what it serves and how."""
