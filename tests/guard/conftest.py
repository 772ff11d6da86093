"""What the guard logs, whether or not Ray has set up its loggers in this process (they keep records from pytest)."""

import io
import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logger = logging.getLogger("ray.serve")
    logger.addHandler(handler)
    yield text
    logger.removeHandler(handler)
