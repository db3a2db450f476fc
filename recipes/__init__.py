"""Recipes for the weights that the package ships; not part of the package."""
