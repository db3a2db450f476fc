"""From a run to files that other programs read, the model card, and the Hub.

Begin at `export.py`.
"""
