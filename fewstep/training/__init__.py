"""The loop: a generator that takes optimiser steps; its caller logs, saves and draws.

Begin at `distill.py`.
"""
