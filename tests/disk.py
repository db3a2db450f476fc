"""A disk without room, as the system itself refuses to write."""

import resource
from contextlib import contextmanager


@contextmanager
def room_for(num_bytes):
    """Let no file grow longer within the block: the system refuses it, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
