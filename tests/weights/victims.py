"""What test_killed.py runs and kills: light to import, as each victim is forked from a server that has all of it."""

import os
from pathlib import Path

from apps.weights.prefetch import prefetch
from apps.weights.progress import Progress
from apps.weights.sources import open_source
from apps.weights.stage import stage
from apps.weights.store import Store

PART_BYTES = 16 * 1024
PARALLEL = 4
URL = "gs://models/gemma"


def stage_from_hub(repository: str, hub_endpoint: str, bucket_endpoint: str) -> None:
    from huggingface_hub import constants, hf_api

    os.environ["STORAGE_EMULATOR_HOST"] = bucket_endpoint
    constants.ENDPOINT = hf_api.api.endpoint = hub_endpoint  # HF_ENDPOINT was read when the server imported it
    constants.HUGGINGFACE_CO_URL_TEMPLATE = hub_endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    stage(open_source(repository, None), Store(URL), Progress(), parallel=PARALLEL, part_bytes=PART_BYTES)


def prefetch_to(directory: str, bucket_endpoint: str) -> None:
    os.environ["STORAGE_EMULATOR_HOST"] = bucket_endpoint
    prefetch(URL, Path(directory), Progress(), parallel=PARALLEL)
