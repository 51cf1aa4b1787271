"""Is this event what its contract says? The verdict in Python, from the bytes of one event.

There are two ways to it, which always agree. The quick one (sure.py) decodes straight into types compiled from the contract
and accepts what is surely right; it never refuses. All that is not surely right goes the exact way (exact.py), which keeps
the text of every number, sees every key, and names every reason. The compiled SQL (sql.py) comes to the same reasons from
the landed record; how each type is read is told in docs/events.md.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Union, cast

import msgspec
from msgspec import Raw

from dataplatform.contracts.events import EventContract

from . import reasons as why
from .exact import ExactContract, NotJson, Object, find_faults, judge_envelope, judge_names, parse
from .reasons import INEXACT_NUMBER, Reason
from .sure import UNDECODABLE, SureKeys, are_surely_right, compile_sure, without_unknown_keys


class Verdict(msgspec.Struct, frozen=True):
    """What one event is worth.

    `event` is the name as sent, or empty where there is none of 1 to 300 characters; `event_id` likewise, or None.
    `faults` are to be landed with the event. `reasons` is everything that refuses it (empty: accepted); a fault
    `inexact_number` is among them only where the contract's type minds. `contract_version` is None for unknown events.
    Duplicates are not judged here: only the warehouse sees all that was received.
    """

    event: str
    event_id: str | None
    faults: list[Reason]
    reasons: list[Reason]
    contract_version: str | None

    @property
    def accepted(self) -> bool:
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdicts on several events, in their order, without an object for each: most are accepted and say nothing."""

    events: list[str]
    """Name of each, as `Verdict.event`."""
    event_ids: list[str | None]
    exactly: dict[int, Verdict]
    """By place, those that were judged the exact way, in order; all others are accepted and have no faults."""

    @property
    def refused(self) -> list[tuple[int, Verdict]]:
        """Place and verdict of those that are not accepted, in order."""
        return [(place, verdict) for place, verdict in self.exactly.items() if verdict.reasons]


class Judge:
    """Verdicts for a set of contracts, by event name. Compiled once; any thread may use it."""

    def __init__(self, contracts: Mapping[str, EventContract]) -> None:
        self._exact = {name: ExactContract(contract) for name, contract in contracts.items()}
        sure = [compile_sure(contract) for contract in contracts.values()]
        self._keys_of: dict[type, SureKeys] = {contract.envelope: contract.keys for contract in sure}
        self._names: dict[type, str] = {contract.envelope: contract.name for contract in sure}
        self._keys_of[_NotSure], self._names[_NotSure] = lambda *_: 0, ""
        self._decode: Callable[[bytes | Raw], Any] = msgspec.json.Decoder(Union[tuple(self._names)]).decode  # noqa: UP007

    def judge(self, raw: bytes) -> Verdict:
        """The verdict on one event, given its JSON text as it arrived."""
        return self.judge_all((raw,))[0]

    def judge_all(self, raws: Sequence[bytes | Raw]) -> list[Verdict]:
        """The verdicts on several events, in order; the same as one by one, and quicker."""
        return self.verdicts(self.judge_batch(raws))

    def judge_batch(self, raws: Sequence[bytes | Raw]) -> Judged:
        """The same verdicts by column: the quickest for many events."""
        texts, decoded = self._decoded(raws)
        names = self._names
        judged = Judged([names[type(event)] for event in decoded], [event.event_id for event in decoded], {})
        for place in self._not_sure(texts, decoded):
            verdict = self.judge_exactly(bytes(raws[place]))
            judged.events[place], judged.event_ids[place] = verdict.event, verdict.event_id
            judged.exactly[place] = verdict
        return judged

    def _decoded(self, raws: Sequence[bytes | Raw]) -> tuple[Sequence[bytes | Raw], list[Any]]:
        """The decoded events (`_NOT_SURE` where that cannot be), and the texts that they were decoded from."""
        try:
            return raws, list(map(self._decode, raws))
        except UNDECODABLE:
            pass
        texts = list(raws)
        decoded: list[Any] = [_NOT_SURE] * len(raws)
        for place, raw in enumerate(raws):
            try:
                decoded[place] = self._decode(raw)
            except UNDECODABLE:
                if (known := without_unknown_keys(bytes(raw))) is not None:
                    texts[place] = known
                    with suppress(*UNDECODABLE):
                        decoded[place] = self._decode(known)
        return texts, decoded

    def _not_sure(self, raws: Sequence[bytes | Raw], decoded: list[Any]) -> list[int]:
        """Places of the events that are not surely right, in order."""
        times: list[str] = []
        decimals: list[Raw] = []
        keys_of = self._keys_of
        keys = [keys_of[type(event)](event, times, decimals) for event in decoded]
        if 0 in keys:
            places = [place for place, found in enumerate(keys) if found]
            others = self._not_sure([raws[place] for place in places], [decoded[place] for place in places])
            return sorted({place for place, found in enumerate(keys) if not found} | {places[one] for one in others})
        if not raws or are_surely_right(raws, sum(keys), times, decimals):
            return []
        if len(raws) == 1:
            return [0]
        return [place for place, raw in enumerate(raws) if self._not_sure((raw,), [decoded[place]])]

    def verdicts(self, judged: Judged) -> list[Verdict]:
        """What `judge_batch` gave, as a verdict for each event."""
        return [
            judged.exactly.get(place) or Verdict(event, event_id, [], [], self._exact[event].version)
            for place, (event, event_id) in enumerate(zip(judged.events, judged.event_ids, strict=True))
        ]

    def judge_exactly(self, raw: bytes) -> Verdict:
        """The same verdict the long way: used for all that is unusual, and by tests to hold the quick way to it."""
        try:
            document = parse(raw)
        except NotJson as error:
            fault = Reason("", error.code, error.message)
            return Verdict("", None, [fault], [fault], None)
        faults: list[Reason] = []
        find_faults(document, "", 0, faults)
        if type(document) is not Object:
            faults.append(Reason("", "not_object", "the event is not a JSON object"))
            return Verdict("", None, faults, [f for f in faults if f.code != INEXACT_NUMBER.code], None)
        broken = {fault.path for fault in faults}
        event, event_id = judge_names(document, broken, faults)
        judge_envelope(document, faults)
        params = document.get("params")
        if params is not None and type(params) is not Object:
            faults.append(Reason("/params", "not_object", "params is not a JSON object"))
        reasons = [fault for fault in faults if fault.code != INEXACT_NUMBER.code]
        readable = not any(why.CODES[fault.code].unreadable for fault in faults)
        contract = self._exact.get(event)
        if contract is None:
            if event:
                reasons.append(why.UNKNOWN_EVENT)
            return Verdict(event, event_id, faults, reasons, None)
        if readable:
            inexact = {fault.path for fault in faults if fault.code == INEXACT_NUMBER.code}
            if inexact:
                harmless = contract.inexact(cast(Object, params or Object()), inexact, reasons)
                faults = [f for f in faults if f.code != INEXACT_NUMBER.code or f.path not in harmless]
            told = {reason.path for reason in reasons}
            found: list[Reason] = []
            contract.judge(params or Object(), found)
            reasons.extend(reason for reason in found if reason.path not in told)
        return Verdict(event, event_id, faults, reasons, contract.version)


class _NotSure(msgspec.Struct, tag_field="event", tag=""):
    """Stands for an event that its contract's type does not decode.

    It is one of the decoder's types as well: were there one type only, an event without a name would be decoded as that.
    """

    event_id: None = None


_NOT_SURE = _NotSure()
