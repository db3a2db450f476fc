"""Captioned images, and their latents encoded once.

Begin at `dataset.py`.
"""
