"""What a command asks on its own machine does not go through the user's proxy, by whichever library; all else does."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

ASKS = """
import asyncio, json, sys, urllib.request
import aiohttp, httpx, openai, requests
from apps.common.command_line import reports_errors

async def with_aiohttp(url):
    async with aiohttp.ClientSession(trust_env=True) as session, session.get(url) as response:
        return await response.text()

@reports_errors()
def main():
    url = sys.argv[1]
    answers = [httpx.get(url).text, requests.get(url).text]
    answers += [urllib.request.urlopen(url).read().decode(), asyncio.run(with_aiohttp(url))]
    openai.OpenAI(base_url=url, api_key="none")
    print(json.dumps([answers, urllib.request.getproxies().get("https"), urllib.request.proxy_bypass("example.com")]))
    return 0

sys.exit(main())
"""


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"me")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("host", "all_proxy"), [("127.0.0.1", "http://127.0.0.1:9"), ("localhost", "socks5h://127.0.0.1:9")])
def test_loopback_is_direct(port: int, host: str, all_proxy: str) -> None:
    closed = "http://127.0.0.1:9"
    proxies = {"http_proxy": closed, "HTTP_PROXY": closed, "https_proxy": closed, "ALL_PROXY": all_proxy, "NO_PROXY": "my.corp"}
    asked = [sys.executable, "-c", ASKS, f"http://{host}:{port}/"]
    done = subprocess.run(asked, env={**os.environ, **proxies}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["me"] * 4, closed, False]
