"""How the bundled teacher was trained."""
