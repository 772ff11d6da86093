"""A replica's log outlives what vLLM's import does to it."""

import logging
import logging.config
import logging.handlers
from pathlib import Path

from apps.common.serve_log import join_serve_log, kept_serve_log


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


def test_vllms_lines_are_in_serves_log_without_clients_text(tmp_path: Path) -> None:
    serve, vllm = logging.getLogger("ray.serve"), logging.getLogger("vllm")
    log = logging.FileHandler(tmp_path / "replica.log")
    own, parent, level = vllm.handlers[:], vllm.parent, vllm.level
    serve.addHandler(log)
    try:
        join_serve_log()
        vllm.setLevel(logging.INFO)
        logging.getLogger("vllm.v1.engine.async_llm").info("Added request cmpl-1.")
        logging.getLogger("vllm.entrypoints.serve.utils.request_logger").info(
            "Received request cmpl-1: params: stop=['secret']"
        )
    finally:
        serve.removeHandler(log)
        vllm.handlers, vllm.parent = own, parent
        vllm.setLevel(level)
    assert (tmp_path / "replica.log").read_text() == "Added request cmpl-1.\n"
