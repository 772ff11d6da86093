"""Imports of very large packages, for processes whose start-up time is mostly imports."""

import contextlib
import gc
import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_gc() -> Iterator[None]:
    """Run imports inside the block without cyclic garbage collection, and exempt what they create from it later.

    Importing vLLM allocates millions of objects that live as long as the process; collecting in between only costs time
    (8.5 s instead of 10.7 s for `import ray.serve.llm` on 2 cores, and shorter pauses while serving).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def import_in_background(module: str) -> None:
    """Import a module in a low-priority thread, and wait for it: on few cores it takes the time that others leave.

    An import that fails is left for the caller's own import statement to report.
    """
    thread = threading.Thread(target=_import_quietly, args=(module,), name=f"import {module}")
    thread.start()
    thread.join()


def _import_quietly(module: str) -> None:
    with contextlib.suppress(Exception), without_gc():
        if hasattr(os, "setpriority"):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # Linux: of this thread alone
        importlib.import_module(module)
