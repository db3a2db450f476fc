"""Pure maths of diffusion: torch only, no networks, no files, no global random state.

Begin at `prediction.py`.
"""
