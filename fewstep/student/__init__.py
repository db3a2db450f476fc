"""From an artefact to images: the contract, the samplers, the pipeline.

Begin at `sample.py`.
"""
