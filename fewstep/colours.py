"""The colours of lines and bars: told apart by colour-blind readers, on light and on dark paper."""

INK, GREY = "#22303c", "#8a97a3"
"""On white paper, of what is not compared by its colour."""

ORANGE, BLUE, TEAL = "#ef540c", "#214efe", "#3f9687"
MAGENTA, OLIVE, LAVENDER = "#a72b9a", "#65653a", "#a477f8"
SIX = (ORANGE, BLUE, TEAL, MAGENTA, OLIVE, LAVENDER)
"""Found by a search for six that are as far apart as can be in every kind of vision."""
