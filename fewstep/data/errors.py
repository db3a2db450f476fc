"""What can be wrong with data: an error that stops, and an image that is left out."""

from fewstep.errors import UserError


class DataError(UserError):
    """Data that cannot be used; the message names the file and the way out."""


class ImageError(DataError):
    """One image that cannot be used: it is left out, counted and listed."""
