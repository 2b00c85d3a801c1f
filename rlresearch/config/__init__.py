"""From YAML and overrides to one checked configuration, and from that to components."""
