"""Recipes that made what the package ships; they are not part of the package."""
