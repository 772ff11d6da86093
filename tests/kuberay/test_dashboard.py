"""What answers at the dashboard's address is Ray's dashboard, or is named as something else."""

import httpx
import pytest

from apps.common.errors import OperationError
from kuberay.dashboard import Dashboard


@pytest.mark.parametrize("body", ["<html>", "[]", "5", "{}", '{"applications": null}', '{"applications": []}'])
def test_a_page_that_is_not_rays_is_named(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(method: str, url: str, **_: object) -> httpx.Response:
        return httpx.Response(200, text=body, request=httpx.Request(method, url))

    monkeypatch.setattr(httpx, "request", answer)
    with pytest.raises(OperationError, match=r"8265/api/serve/applications/ is not a page of Ray's dashboard"):
        Dashboard("http://127.0.0.1:8265", None).serve()
