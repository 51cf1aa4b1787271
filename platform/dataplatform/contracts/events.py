"""The contract of an event: its name, its owner, and the tree of its parameters."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator
from pydantic import Field as PydanticField
from pydantic_core import PydanticCustomError

from .documents import dotted
from .fields import Column, Field, columns_of
from .rules import field_mistakes

Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*$", max_length=40)]
Status = Literal["draft", "active", "deprecated"]

ENVELOPE_FIELDS: tuple[Field, ...] = (
    Field(name="event_id", type="STRING", required=True, description="Id that the sender gave the event; unique here."),
    Field(name="event", type="STRING", required=True, description="Name of the event as it was sent."),
    Field(name="event_time", type="TIMESTAMP", description="When it happened by the device's clock."),
    Field(name="sent_at", type="TIMESTAMP", description="When it was sent, by the device's clock."),
    Field(name="user_id", type="STRING", pii=True, description="The signed-in user."),
    Field(name="device_id", type="STRING", pii=True, description="The device or browser."),
    Field(name="session_id", type="STRING", description="The visit."),
    Field(name="platform", type="STRING", description="Where it was sent from, such as ios, android, web or server."),
    Field(name="app_version", type="STRING", description="Version of the app that sent it."),
)
"""What is sent beside `params` in every event, under the same names as the columns."""

_ARRIVAL_FIELDS: tuple[Field, ...] = (
    Field(name="received_at", type="TIMESTAMP", required=True, description="When the collector received it."),
    Field(name="hour", type="TIMESTAMP", required=True, description="The hour of received_at; the partition."),
    Field(
        name="occurred_at",
        type="TIMESTAMP",
        description="When it happened by our clock: event_time + (received_at - sent_at), or event_time if sent_at is null.",
    ),
)

LEADING_FIELDS: tuple[Field, ...] = (*ENVELOPE_FIELDS, *_ARRIVAL_FIELDS)
"""Columns that stand before the parameters' in every event's table."""

TRAILING_FIELDS: tuple[Field, ...] = (
    Field(
        name="_extra",
        type="JSON",
        description="Keys that were sent and that the contract does not know, nested as sent.",
    ),
)
"""Columns that stand after the parameters'."""

ENVELOPE_COLUMNS: tuple[str, ...] = tuple(field.name for field in (*LEADING_FIELDS, *TRAILING_FIELDS))
"""Columns that every event's table has; no parameter may be flattened to one of these names."""


class EventContract(BaseModel):
    """What an event is. Everything about it (check, table, asset, dictionary page) is compiled from this.

    An instance is always a contract that can become a table: the rules of `rules.field_mistakes` hold.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Word = PydanticField(description="What happened: a verb of the vocabulary.")
    object: Word = PydanticField(description="To what: a noun of the vocabulary.")
    service: Word = PydanticField(description="Where: a service of the vocabulary.")
    owner: Annotated[str, StringConstraints(min_length=1)] = PydanticField(
        description="The team that answers for the event, as in owners.yaml."
    )
    domain: Annotated[str, StringConstraints(min_length=1)] = PydanticField(
        description="The business domain it belongs to."
    )
    description: Annotated[str, StringConstraints(min_length=1, max_length=10_000)] = PydanticField(
        description="When it is sent, in a sentence or two."
    )
    status: Status = PydanticField("active", description="draft, active or deprecated; all three are still accepted.")
    version: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]*\.(0|[1-9][0-9]*)$")] = PydanticField(
        "1.0",
        description="MAJOR.MINOR. An additive change raises MINOR; a breaking one is a new contract with the next MAJOR.",
    )
    params: tuple[Field, ...] = PydanticField((), description="The event's own parameters.")

    @model_validator(mode="after")
    def _can_become_a_table(self) -> "EventContract":
        if mistakes := field_mistakes(self.params, taken=ENVELOPE_COLUMNS):
            text = "; ".join(f"{dotted(mistake.path)}: {mistake.message}" for mistake in mistakes)
            raise PydanticCustomError("rules", "{text}", {"text": text, "mistakes": mistakes})
        return self

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
    shape = {"name": contract.name, "version": contract.version, "params": [_field_shape(f) for f in contract.params]}
    return json.dumps(shape, sort_keys=True)


def _field_shape(field: Field) -> dict[str, Any]:
    shape = field.model_dump(mode="json", exclude={"description", "pii", "fields"}, exclude_defaults=True)
    if field.fields:
        shape["fields"] = [_field_shape(inner) for inner in field.fields]
    return shape
