"""Captioned pictures, and their latents encoded once."""
