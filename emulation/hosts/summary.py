"""What a start prints at its end."""

import json
from pathlib import Path

from apps.common.settings import proxy_exemptions
from emulation.hosts import head, token
from emulation.hosts.record import StackRecord


def summary(stack: StackRecord, seconds: float | None) -> str:
    """Addresses of a running stack, where its logs are, and a first request; `seconds` is how long the start took."""
    ready = f"Ready after {seconds:.0f} s.\n" if seconds is not None else ""
    logs = Path(stack.temp_dir) / "ray" / "session_latest" / "logs"
    place = token.where(head.stack_environment(Path(stack.temp_dir), stack.first_port, classic=stack.classic))
    ray_commands = f"  Ray CLI    export {token.MODE}=token; `serve` and `ray` then send that token\n"
    exempt = proxy_exemptions()
    proxy = (
        f"  Proxy      export no_proxy={exempt}; curl and Ray's commands then reach this machine without it\n" if exempt else ""
    )
    key = "-H 'authorization: Bearer KEY' " if stack.own_key() else ""
    body = {
        "model": stack.model_id,
        "temperature": 0,
        "messages": [{"role": "user", "content": "At what temperature does water boil?"}],
    }
    return (
        f"{ready}  API        {stack.api_url}   (model {stack.model_id})\n"
        f"  Chat       {stack.chat_url}{'   (log in with a key)' if key else ''}\n"
        f"  Dashboard  {stack.dashboard_url}{f'   (asks for the token {place})' if place else ''}\n"
        f"{ray_commands if place else ''}{proxy}"
        f"  Logs       {logs}\n"
        f"  Try        curl {stack.api_url}/chat/completions -H 'content-type: application/json' {key}-d '{json.dumps(body)}'"
    )
