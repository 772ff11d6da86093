"""A replica's log: kept alive while vLLM is imported, and vLLM's own lines in it.

vLLM sets up its own log by `logging.config.dictConfig`, which closes every handler there is. Serve's is a buffer that loses its
file that way: nothing more would be written, and the buffer would grow for ever (Ray 2.60.0, vLLM 0.29.0).
"""

import logging
import logging.handlers
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_serve_log() -> Iterator[None]:
    """Restore where the handlers of Serve's logger write, whatever the block does to them."""
    buffers = [
        handler for handler in logging.getLogger("ray.serve").handlers if isinstance(handler, logging.handlers.MemoryHandler)
    ]
    targets = [buffer.target for buffer in buffers]
    try:
        yield
    finally:
        for buffer, target in zip(buffers, targets, strict=True):
            buffer.setTarget(target)


def join_serve_log() -> None:
    """Send vLLM's lines to Serve's log, in its form and with its request id, and leave out clients' text."""
    vllm = logging.getLogger("vllm")
    vllm.handlers.clear()
    vllm.parent, vllm.propagate = logging.getLogger("ray.serve"), True
    # "Received request" has stop strings and schemas; "Added request" and its outcome carry the id alone.
    logging.getLogger("vllm.entrypoints.serve.utils.request_logger").setLevel(logging.WARNING)
