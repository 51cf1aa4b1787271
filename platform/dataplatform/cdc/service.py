"""Which process captures what: every unit is taken by the first capture that finds its lease free."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from ..contracts.collections import CollectionContract, load_collections_leniently
from ..errors import PlatformError
from ..settings import Settings
from .capture import Capture, Contracts
from .state import FencedError, Unit, UnitState, units_of

_log = logging.getLogger(__name__)

TAKE_SECONDS = 5.0
"""How often a service looks for units that nobody has; a worker waits this much longer for every unit it already has, so that
units spread over the workers."""


def contracts_of(settings: Settings, report: Callable[[str], None]) -> Callable[[], Contracts]:
    """The contracts as they stand in the folder each time they are asked for. A broken file is reported once; what it said before
    it broke holds on, or, where nobody knows that, it is left out."""
    told: set[str] = set()
    held: dict[Path, CollectionContract] = {}

    def read() -> Contracts:
        collections, problems = load_collections_leniently(settings.schemas_dir)
        for problem in problems:
            text = str(problem)
            if text not in told:
                told.add(text)
                report(text)
        broken = {problem.file for problem in problems}
        kept = {
            file: one for file, one in held.items() if file in broken and one.namespace not in collections.contracts
        }
        held.clear()
        held.update(kept | {file: collections.contracts[name] for name, file in collections.files.items()})
        return {one.namespace: one for one in held.values()}

    return read


def capture_once(
    settings: Settings,
    report: Callable[[str], None],
    *,
    connection: str | None = None,
    until: datetime | None = None,
    stop: threading.Event | None = None,
) -> dict[str, UnitState]:
    """Capture every unit (of one connection) up to now, or to `until`, at the same time. One that fails does not stop the
    others; the first error is raised when all have ended."""
    contracts = contracts_of(settings, report)
    units = _units(settings, contracts(), connection)
    states: dict[str, UnitState] = {}
    errors: list[BaseException] = []

    def work(unit: Unit) -> None:
        try:
            capture = Capture(settings, unit, contracts, stop=stop)
            states[unit.name] = capture.run(once=until is None, until=until)
        except BaseException as error:  # raised below, in the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(unit,), name=unit.name) for unit in units]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors[1:]:
        report(str(error))
    if errors:
        raise errors[0]
    return states


def capture_always(
    settings: Settings,
    report: Callable[[str], None],
    *,
    connection: str | None = None,
    standby: bool = False,
    stop: threading.Event,
) -> None:
    """Capture until `stop`. Units are looked for again and again, so that those of a worker that died are taken over.

    Without `standby`, finding every unit taken by others at the start is a FencedError: one of the two was a mistake.
    """
    contracts = contracts_of(settings, report)
    running: dict[str, threading.Thread] = {}
    told: set[str] = set()
    fenced: list[FencedError] = []

    def work(unit: Unit) -> None:
        try:
            Capture(settings, unit, contracts, stop=stop).run()
        except FencedError as error:
            fenced.append(error)
            if unit.name not in told:
                told.add(unit.name)
                report(str(error))
        except PlatformError as error:
            if str(error) not in told:
                told.add(str(error))
                report(f"{unit.name}: {error}")
        except Exception:
            _log.exception("the capture of %s failed; it is begun again", unit.name)

    first = True
    while not stop.is_set():
        running = {name: thread for name, thread in running.items() if thread.is_alive()}
        for unit in _units(settings, contracts(), connection):
            if unit.name in running or stop.wait(0 if first else min(len(running), 6) * 0.5):
                continue
            thread = threading.Thread(target=work, args=(unit,), name=unit.name, daemon=True)
            running[unit.name] = thread
            thread.start()
        stop.wait(1.0 if first else TAKE_SECONDS)
        if first and fenced and not standby and not any(thread.is_alive() for thread in running.values()):
            raise fenced[0]
        first = False
    for thread in running.values():
        thread.join(timeout=30)


def _units(settings: Settings, contracts: Contracts, connection: str | None) -> list[Unit]:
    units = units_of(contracts.values(), settings.cdc_stream_scope)
    if connection is not None:
        units = [unit for unit in units if unit.connection == connection]
        if not units:
            raise PlatformError(
                f"no contract names the connection `{connection}`",
                where=str(settings.schemas_dir / "collections"),
                fix="check the name, or add a contract",
            )
    return units
