"""fewstep: turn a 50-step text-to-image diffusion model into a 4-step one, and prove it."""

__version__ = "0.2.0"
