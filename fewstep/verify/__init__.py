"""The truth bench: is the library right? Checked on data whose exact answers are known.

Begin at `bench.py`.
"""

from fewstep.verify.bench import verify
from fewstep.verify.predictions import unexplained

__all__ = ["unexplained", "verify"]
