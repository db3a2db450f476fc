"""Captioned images, and their latents encoded once."""
