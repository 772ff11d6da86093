"""The token that Ray's interfaces require: dashboard, jobs, Serve's REST API, Ray's client and nodes (`RAY_AUTH_MODE=token`).

It is this user's token for Ray, where Ray's own commands read it. Source: Ray 2.60.0, `ray/_private/authentication`.
"""

import os
import secrets
from collections.abc import Mapping

from apps.common.errors import UserError
from apps.common.settings import RAY_TOKEN, RAY_TOKEN_PATH, ray_token, ray_token_file

MODE = "RAY_AUTH_MODE"


def ensure_token(environment: Mapping[str, str]) -> None:
    """Create the user's token if there is none: as `ray get-auth-token --generate`, but readable by its owner alone.

    Raises:
        UserError: the user's home cannot be written.
    """
    if environment.get(MODE, "token") != "token" or environment.get(RAY_TOKEN) or environment.get(RAY_TOKEN_PATH):
        return
    file = ray_token_file({})
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise UserError(
            f"{error}: set HOME to a directory that you may write to, or {RAY_TOKEN_PATH} to a file there"
        ) from None
    with os.fdopen(descriptor, "w") as out:
        out.write(secrets.token_hex(32))


def headers(environment: Mapping[str, str]) -> dict[str, str]:
    """Headers that a request to the dashboard needs; none where Ray asks for no token.

    Raises:
        UserError: the token's file cannot be read.
    """
    if environment.get(MODE) != "token":
        return {}
    token = ray_token(environment)
    if token is None:
        raise UserError(f"{ray_token_file(environment)}: Ray's token cannot be read: run ray get-auth-token --generate")
    return {"authorization": f"Bearer {token}"}


def where(environment: Mapping[str, str]) -> str:
    """Place of the token that the dashboard asks for, as text; empty where it asks for none."""
    if environment.get(MODE) != "token":
        return ""
    if environment.get(RAY_TOKEN):
        return f"in {RAY_TOKEN}"
    return f"in {ray_token_file(environment)}"
