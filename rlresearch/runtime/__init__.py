"""The process and the machine: devices, cores, signals, time limits."""
