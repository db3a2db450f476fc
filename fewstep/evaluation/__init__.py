"""From images to numbers with intervals, and the report that shows them.

Begin at `evaluate.py`.
"""
