"""Real programs, each in its own environment, that sample what fewstep exports."""
