"""The bundled world: coloured shapes, captions of them, and a parser that reads them back.

Begin at `scenes.py`.
"""
