"""Connections to source deployments: opened by name, with errors that name the setting and never show the URI's password."""

import re
from typing import Any
from urllib.parse import unquote

from bson import Timestamp
from pymongo import MongoClient
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.uri_parser import parse_uri

from ..errors import PlatformError
from ..settings import Settings
from .secrets import PREFIX, secret_of

SELECTION_SECONDS = 10.0
PRIVILEGES = "find and changeStream on the databases (role `read` on each, or `readAnyDatabase` for one stream of all)"


class SourceError(PlatformError):
    """The source cannot be read as it is set up; the message names the connection's setting."""


def setting_of(connection: str) -> str:
    """The environment variable that holds a connection's URI."""
    return f"DATAPLATFORM_CONNECTIONS__{connection.upper()}"


def uri_of(settings: Settings, connection: str) -> str:
    """The connection's URI, from the environment or from the secret that is named there; SourceError where there is none."""
    for name, uri in settings.connections.items():
        if name.lower() == connection.lower():
            given = uri.get_secret_value()
            return secret_of(given, setting_of(connection)) if given.startswith(PREFIX) else given
    raise SourceError(
        f"the connection `{connection}` has no URI",
        where=setting_of(connection),
        fix="set it to the deployment's URI, such as mongodb://user:password@host:27017/?replicaSet=rs0, or to the secret"
        " that holds it, sm://projects/<project>/secrets/<name>",
    )


def connect(
    settings: Settings, connection: str, *, uri: str | None = None, **options: Any
) -> MongoClient[dict[str, Any]]:
    """A client of the connection (`uri`: what `uri_of` gave, where it is known already); nothing is sent to it yet. SourceError
    where the URI is none."""
    uri = uri or uri_of(settings, connection)
    try:
        if uri.split("?")[0].count("@") > 1:
            raise InvalidURI("an @ in user or password")  # which the driver takes for the end of it
        parse_uri(uri, validate=True, warn=False) if uri.startswith("mongodb://") else None
        return MongoClient(
            uri, appname="dataplatform-cdc", **({"serverSelectionTimeoutMS": int(SELECTION_SECONDS * 1000)} | options)
        )
    except (InvalidURI, ConfigurationError, ValueError) as error:
        # A password with a character that should be encoded makes the driver take parts of it for a host or a port.
        reason = "user and password, host, port or options are written wrong" if "@" in uri else str(error)
        raise SourceError(
            f"not a MongoDB URI: {reason}",
            where=setting_of(connection),
            fix="write mongodb://[user:password@]host:port/[?options], special characters percent-encoded",
        ) from None


def check(client: MongoClient[dict[str, Any]], connection: str, uri: str) -> Timestamp:
    """That the deployment answers and has change streams; its present operation time."""
    try:
        hello = client.admin.command("hello")
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise SourceError(
                "the server is no replica set, so it has no change streams",
                where=setting_of(connection),
                fix="start it with a replica set of one member (`--replSet rs0`, then `rs.initiate()`)",
            )
        return operation_time(client)
    except PyMongoError as error:
        raise source_error(error, connection, uri) from None


def operation_time(client: MongoClient[dict[str, Any]]) -> Timestamp:
    """The time that the deployment has reached: everything acknowledged before this call is at or before it."""
    answer = client.admin.command({"ping": 1})
    time = answer.get("operationTime")
    assert isinstance(time, Timestamp)
    return time


def source_error(error: PyMongoError, connection: str, uri: str) -> SourceError:
    """The error of a driver, in words that say what to mend."""
    where = setting_of(connection)
    text = redact(str(error), uri)
    if isinstance(error, OperationFailure):
        details = error.details or {}
        text = redact(str(details.get("errmsg", error)), uri)
        if error.code in (18, 8000):
            return SourceError(f"the deployment refuses the user: {text}", where=where, fix="check user and password")
        if error.code == 13:
            return SourceError(f"the user may not read: {text}", where=where, fix=f"grant {PRIVILEGES}")
        if error.code in (40573, 115):
            return SourceError(f"no change streams: {text}", where=where, fix="use a replica set or a sharded cluster")
        return SourceError(f"the deployment refuses: {text} (code {error.code})", where=where, fix="see docs/cdc.md")
    if isinstance(error, ServerSelectionTimeoutError | ConnectionFailure):
        short = text.split(", Timeout:")[0]
        return SourceError(
            f"no server answers: {short}", where=where, fix="check host and port, and that this machine may reach them"
        )
    return SourceError(text, where=where, fix="see docs/cdc.md")


def redact(text: str, uri: str) -> str:
    """The text without the URI's password, wherever and however it stands in it."""
    match = re.search(r"//[^/@]*?:([^@]*)@", uri)
    if match and match[1]:
        for secret in {match[1], unquote(match[1])}:
            text = text.replace(secret, "***")
    return re.sub(r"(mongodb(?:\+srv)?://)[^@\s/]*@", r"\1***@", text)
