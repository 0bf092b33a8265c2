"""Training: when to step, save and stop; what a step does; and what must survive the process."""
