"""A replica's log outlives what vLLM's import does to it."""

import logging
import logging.config
import logging.handlers
from pathlib import Path

from apps.serve_log import kept_serve_log


def test_the_buffer_still_writes_after_all_handlers_were_closed(tmp_path: Path) -> None:
    logger, log = logging.getLogger("ray.serve"), tmp_path / "replica.log"
    buffer = logging.handlers.MemoryHandler(1, target=logging.FileHandler(log))
    logger.addHandler(buffer)
    try:
        with kept_serve_log():
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
        logger.error("after the import")
    finally:
        logger.removeHandler(buffer)
    assert log.read_text() == "after the import\n"
