"""The border: the only folder that knows diffusers, transformers and PEFT.

Begin at `loading.py`.
"""
