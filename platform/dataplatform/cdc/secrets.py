"""Google Secret Manager: where a connection's URI may be kept, so that the environment holds only the secret's name."""

import base64
import json
import re
from typing import Any

from ..errors import PlatformError

ENDPOINT = "https://secretmanager.googleapis.com"
PREFIX = "sm://"
_RESOURCE = re.compile(r"^projects/[^/]+/secrets/[^/]+(?:/versions/[^/]+)?$")
_SECONDS = 10.0


class SecretError(PlatformError):
    """A secret that cannot be read. Says its name, never anything of its content."""


def secret_of(reference: str, where: str, *, endpoint: str = ENDPOINT, session: Any = None) -> str:
    """The text of a secret. `reference`: `sm://projects/<project>/secrets/<name>[/versions/<version>]`, the newest version by default.

    `where` names the setting that holds the reference, for errors. `session` sends the request; by default one with the
    application's default credentials, which need the role Secret Manager Secret Accessor.
    """
    name = reference.removeprefix(PREFIX)
    if not _RESOURCE.match(name):
        raise SecretError(
            f"`{reference}` names no secret", where=where, fix="write sm://projects/<project>/secrets/<name>"
        )
    if "/versions/" not in name:
        name += "/versions/latest"
    try:
        answer = (session or _session()).get(f"{endpoint}/v1/{name}:access", timeout=_SECONDS)
    except Exception as error:  # of the transport or of the credentials: each has classes of its own
        raise SecretError(
            f"the secret {name} cannot be read: {type(error).__name__}",
            where=where,
            fix="check the network and the application default credentials of this process",
        ) from None
    if answer.status_code != 200:
        fixes = {
            403: "grant this process's account the role Secret Manager Secret Accessor",
            404: "check project, name and version",
        }
        raise SecretError(
            f"the secret {name} cannot be read: HTTP {answer.status_code}",
            where=where,
            fix=fixes.get(answer.status_code, "try again; then see the project's Secret Manager"),
        )
    try:
        return base64.b64decode(json.loads(answer.content)["payload"]["data"]).decode().strip()
    except (ValueError, KeyError, TypeError):
        raise SecretError(
            f"the secret {name} holds no text", where=where, fix="add a version that is the URI"
        ) from None


def _session() -> Any:
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    return AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
