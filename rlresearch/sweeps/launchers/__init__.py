"""How a sweep's jobs are started: here, in one program, in processes, on clusters."""
