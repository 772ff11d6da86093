"""Keep a replica's log alive while vLLM is imported.

vLLM sets up its own log by `logging.config.dictConfig`, which closes every handler there is. Serve's is a buffer that loses its
file that way: nothing would be written any more, and the buffer would grow for ever (Ray 2.60.0, vLLM 0.29.0).
"""

import logging
import logging.handlers
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_serve_log() -> Iterator[None]:
    """Whatever the block does to the handlers of Serve's logger, afterwards they write where they wrote before."""
    buffers = [one for one in logging.getLogger("ray.serve").handlers if isinstance(one, logging.handlers.MemoryHandler)]
    targets = [buffer.target for buffer in buffers]
    try:
        yield
    finally:
        for buffer, target in zip(buffers, targets, strict=True):
            buffer.setTarget(target)
