"""The composition root: the only folder that knows every part."""
