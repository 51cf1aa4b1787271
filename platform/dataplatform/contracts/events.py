"""The contract of an event: its name, its owner, and the tree of its parameters."""

import hashlib
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field as PydanticField, StringConstraints

from .fields import Column, Field, columns_of

Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*$", max_length=40)]
Status = Literal["draft", "active", "deprecated"]

ENVELOPE_COLUMNS: tuple[str, ...] = (
    "event_id",
    "event",
    "event_time",
    "sent_at",
    "user_id",
    "device_id",
    "session_id",
    "platform",
    "app_version",
    "received_at",
    "hour",
    "occurred_at",
    "_extra",
)
"""Columns that every event's table has; no parameter may be flattened to one of these names."""


class EventContract(BaseModel):
    """What an event is. Everything about it (check, table, asset, dictionary page) is compiled from this."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Word = PydanticField(description="What happened: a verb of the vocabulary.")
    object: Word = PydanticField(description="To what: a noun of the vocabulary.")
    service: Word = PydanticField(description="Where: a service of the vocabulary.")
    owner: str = PydanticField(description="The team that answers for the event, as in owners.yaml.")
    domain: str = PydanticField(description="The business domain it belongs to.")
    description: str = PydanticField(min_length=1, description="When it is sent, in a sentence or two.")
    status: Status = PydanticField("active", description="draft, active or deprecated; all three are still accepted.")
    version: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*\.(0|[1-9][0-9]*)$")] = PydanticField(
        "1.0",
        description="MAJOR.MINOR. An additive change raises MINOR; a breaking one is a new contract with the next MAJOR.",
    )
    params: tuple[Field, ...] = PydanticField((), description="The event's own parameters.")

    @property
    def major(self) -> int:
        return int(self.version.split(".", 1)[0])

    @property
    def base_name(self) -> str:
        """`<action>_<object>_<service>`, without the major version."""
        return f"{self.action}_{self.object}_{self.service}"

    @property
    def name(self) -> str:
        """Name as sent in the envelope and as the table is called; major versions from 2 on end in `_v<major>`."""
        return self.base_name if self.major == 1 else f"{self.base_name}_v{self.major}"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the parameters (the envelope's are the same for all events)."""
        return tuple(columns_of(self.params))

    @property
    def digest(self) -> str:
        """Content hash of all that decides what the table holds; texts, owner and status do not change it."""
        return hashlib.sha256(_shape(self).encode()).hexdigest()[:16]


def _shape(contract: EventContract) -> str:
    text = contract.model_dump_json(include={"version", "params"}, exclude_defaults=True)
    return re.sub(r'"description":"(?:[^"\\]|\\.)*",?', "", contract.name + text)
