"""The simulator: the same seed sends the same bytes, and its account is what the judge finds in them."""

import hashlib
import random
from collections import Counter
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import msgspec
import pytest

from dataplatform.contracts.load import load_contracts
from dataplatform.contracts.patterns import compile_pattern
from dataplatform.events.reasons import CODES
from dataplatform.events.verdict import Judge
from dataplatform.local.samples import broken_events, text_of_pattern, valid_params
from dataplatform.local.simulator import Account, Dirt, Traffic

HOUR = datetime.fromisoformat("2026-01-01T00:00:00Z")
CONTRACTS = load_contracts(Path("schemas")).events


@cache
def judge() -> Judge:
    return Judge(CONTRACTS)


@cache
def batches(seed: str, hours: int = 3, events: int = 4000, dirt: Dirt | None = None):
    traffic = Traffic(CONTRACTS, seed, dirt or Dirt())
    made = [batch for number in range(hours) for batch in traffic.hour(HOUR + timedelta(hours=number), events)]
    return traffic, made


def digest(made) -> str:
    return hashlib.sha256(b"".join(batch.body for batch in made)).hexdigest()


def test_the_seed_decides_every_byte():
    again = batches.__wrapped__("a")[1]
    assert digest(batches("a")[1]) == digest(again)
    assert digest(batches("b")[1]) != digest(again)


def test_the_account_is_what_is_sent():
    """A model of the warehouse in a few lines: judge everything, the first of an id wins."""
    traffic, made = batches("a", dirt=Dirt(broken=0.1, duplicate_across_hours=0.05, segment=0))
    seen: set[tuple[str, str]] = set()
    counted: dict[datetime, dict[str, Account]] = {}
    codes: Counter[str] = Counter()
    for batch in made:
        accounts = counted.setdefault(batch.hour, {})
        texts = batch.body[1:-1].split(b",\n")
        assert len(texts) == batch.events
        for text in texts:
            verdict = judge().judge(text)
            account = accounts.setdefault(verdict.event, Account())
            key = (verdict.event, verdict.event_id)
            if verdict.event_id is not None and key in seen:
                account.add(received=1, duplicates=1)
            elif verdict.accepted:
                account.add(received=1, accepted=1)
            else:
                account.add(received=1, rejected=1)
                codes.update(reason.code for reason in verdict.reasons)
            if verdict.event_id is not None:
                seen.add(key)
    assert counted == {hour: dict(accounts) for hour, accounts in traffic.expected.items()}
    assert set(codes) == set(CODES), "every reason that there is"


def test_late_events_and_wrong_clocks_are_sent():
    _, made = batches("a", hours=1, events=12_000)
    off: Counter[str] = Counter()
    for batch in made:
        if batch.path == "/v1/events":
            for text in batch.body[1:-1].split(b",\n"):
                try:
                    event = msgspec.json.decode(text)
                    behind = batch.received_at - datetime.fromisoformat(event["event_time"])
                except (msgspec.DecodeError, KeyError, ValueError, TypeError):
                    continue
                clock = batch.received_at - datetime.fromisoformat(event["sent_at"])
                off["late"] += behind > timedelta(hours=4) and clock < timedelta(seconds=2)
                off["clock"] += abs(clock) > timedelta(minutes=1)
        else:
            off["segment"] += batch.events
    assert off["late"] > 10
    assert off["clock"] > 10
    assert off["segment"] > 100


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_samples_of_every_contract_are_judged_as_meant(name):
    source = random.Random(name)
    assert len(valid_params(CONTRACTS[name], judge(), source, 5)) == 5
    codes = {broken.code for broken in broken_events(CONTRACTS[name], judge(), source)}
    assert {"not_json", "duplicate_key", "too_deep", "wrong_type", "missing"} <= codes


@pytest.mark.parametrize(
    "pattern",
    [
        r"[0-9]{1,19}",
        r"[\s\S]{1,80}",
        r"\+?[0-9-]{7,20}",
        r"[^@\s]+@[^@\s]+",
        r"https?://\S+",
        r"(?:a|bc|[^d-f])*?x?\w\d\s.",
        r"(\d{4})-(0[1-9]|1[0-2])",
        r"[가-힣]{2,4}",
        r"\D\W\S[^\S]",
    ],
)
def test_texts_of_patterns_match_them(pattern):
    compiled = compile_pattern(pattern)
    for seed in range(50):
        text = text_of_pattern(pattern, random.Random(seed))
        assert compiled.fullmatch(text), text
