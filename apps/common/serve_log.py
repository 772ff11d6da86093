"""A replica's log: kept alive while vLLM is imported, and vLLM's own lines in it.

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


def join_serve_log() -> None:
    """Let vLLM's lines go to Serve's log, in its form and with its request id, and leave out what is a client's text."""
    vllm = logging.getLogger("vllm")
    vllm.handlers.clear()
    vllm.parent, vllm.propagate = logging.getLogger("ray.serve"), True
    # "Received request" has stop strings and schemas; "Added request" and how it ended have the id alone.
    logging.getLogger("vllm.entrypoints.serve.utils.request_logger").setLevel(logging.WARNING)
