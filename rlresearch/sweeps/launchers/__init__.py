"""Launchers, which start the jobs of a sweep: in this process, in one program, in other processes, on clusters."""
