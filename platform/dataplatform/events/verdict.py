"""Is this event what its contract says? The verdict in Python, from the bytes of one event.

There are two ways to it, which always agree. The quick one (sure.py) decodes straight into types compiled from the contract
and accepts what is surely right; it never refuses. All that is not surely right goes the exact way (exact.py), which keeps
the text of every number, sees every key, and names every reason. The compiled SQL (sql.py) comes to the same reasons from
the landed record; how each type is read is told in docs/events.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, cast

import msgspec
from msgspec import Raw

from dataplatform.contracts.events import EventContract

from . import reasons as why
from .exact import ExactContract, NotJson, Object, find_faults, judge_envelope, judge_names, parse
from .reasons import INEXACT_NUMBER, Reason
from .sure import BACKSLASH, SURE_LENGTH, are_sure_decimals, are_sure_times, compile_sure, has_no_more_keys


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


class Judge:
    """Verdicts for a set of contracts, by event name. Compiled once; any thread may use it."""

    def __init__(self, contracts: Mapping[str, EventContract]) -> None:
        self._exact = {name: ExactContract(contract) for name, contract in contracts.items()}
        sure = [compile_sure(contract) for contract in contracts.values()]
        self._sure = {contract.envelope: (contract.keys, contract.name, contract.version) for contract in sure}
        self._decode: Callable[[bytes], Any] = (
            msgspec.json.Decoder(Union[tuple(self._sure)]).decode if sure else _never  # noqa: UP007
        )

    def judge(self, raw: bytes) -> Verdict:
        """The verdict on one event, given its JSON text as it arrived."""
        return self.judge_all((raw,))[0]

    def judge_all(self, raws: Sequence[bytes]) -> list[Verdict]:
        """The verdicts on several events, in order; the same as one by one, and quicker."""
        decode, sure = self._decode, self._sure
        times: list[str] = []
        decimals: list[Raw] = []
        time, decimal = times.append, decimals.append
        verdicts = []
        for raw in raws:
            before = len(times)
            try:
                event = decode(raw)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                verdicts.append(self.judge_exactly(raw))
                continue
            keys_of, name, version = sure[type(event)]
            keys = keys_of(event, time, decimal)
            # Of a key that is twice in the text one is lost in the decoded event. Every key is followed by a colon. So if
            # the keys and the times, which have two colons at least, make up all colons of the text, none was lost.
            if (
                keys
                and len(raw) <= SURE_LENGTH
                and (
                    (BACKSLASH not in raw and keys + 2 * (len(times) - before) == raw.count(b":"))
                    or has_no_more_keys(raw, keys)
                )
            ):
                verdicts.append(Verdict(name, event.event_id, [], [], version))
            else:
                verdicts.append(self.judge_exactly(raw))
        if are_sure_times(times) and are_sure_decimals(decimals):
            return verdicts
        if len(raws) == 1:
            return [self.judge_exactly(raws[0])]
        return [self.judge(raw) for raw in raws]

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


def _never(raw: bytes) -> Any:
    raise ValueError(raw)
