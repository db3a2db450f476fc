"""Without the extra `ui`, as with the oldest versions, the doctests of the page are left out."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("gradio") else ["fewstep/ui/*"]
