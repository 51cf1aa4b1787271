"""The contracts in force: read again when their folder changes, the last good one of each kept."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from watchfiles import awatch

from ..contracts.errors import Problem
from ..contracts.events import EventContract
from ..contracts.load import Contracts, load_contracts_leniently
from ..events.verdict import Judge

log = logging.getLogger(__name__)
_LOOK_MILLISECONDS = 5000


def in_force(before: Contracts, now: Contracts, problems: Sequence[Problem]) -> Contracts:
    """What counts after a reload: the good contracts, and for a broken file the contract that it held before.

    A contract whose file was removed is gone. A folder that is gone, or lacks what every folder of contracts has (as where
    the system gives no more files to this process), changes nothing.
    """
    if before.events and any(problem.code in ("no_folder", "no_file") for problem in problems):
        return before
    broken = {problem.file for problem in problems}
    kept = {
        name: contract
        for name, contract in before.events.items()
        if name not in now.events and before.files.get(name) in broken
    }
    return Contracts(
        events={**kept, **now.events},
        owners=now.owners,
        vocabulary=now.vocabulary,
        files={**{name: before.files[name] for name in kept}, **now.files},
    )


def compilable(contracts: Contracts, problems: Sequence[Problem]) -> tuple[Contracts, list[Problem]]:
    """The contracts that a judge can be made of; each other one as a problem of its file."""
    problems = list(problems)
    try:
        Judge(contracts.events)
    except Exception:
        good = {}
        for name, contract in contracts.events.items():
            try:
                Judge({name: contract})
                good[name] = contract
            except Exception as error:
                file = contracts.files[name]
                problems.append(
                    Problem(
                        file, 0, "", "not_compilable", str(error), "mend the contract: `dataplatform contracts check`"
                    )
                )
        contracts = replace(contracts, events=good, files={name: contracts.files[name] for name in good})
    return contracts, problems


class LiveContracts:
    """The judge of the moment. Reloading compiles a new one beside it; a broken folder leaves the present one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.contracts = Contracts()
        self.problems: Sequence[Problem] = ()
        self.failure: str | None = None
        """Why the last reload failed as a whole; None normally."""
        self.judge = Judge({})
        self._digest: Mapping[str, str] = {}

    def reload(self) -> bool:
        """Read the folder; whether another judge is in force now. Never raises: what is wrong is told by `problems`."""
        try:
            now, problems = load_contracts_leniently(self.root)
            now, problems = compilable(now, problems)
            contracts = in_force(self.contracts, now, problems)
            digest = digests(contracts.events)
            if changed := digest != self._digest:
                self.judge = Judge(contracts.events)
            self.contracts, self._digest = contracts, digest
            self.problems, self.failure = tuple(problems), None
        except Exception as error:  # a fault of ours must not take the collector down either
            log.exception("reloading the contracts failed")
            self.failure = f"{type(error).__name__}: {error}"
            return False
        for problem in problems:
            log.warning("contract not in force, the last good one stays: %s", problem)
        if changed:
            log.info("%d contracts in force", len(contracts.events))
        return changed

    async def watch(self) -> None:
        """Reload whenever a file of the folder changes; runs until cancelled.

        The system tells of changes at once; what it does not tell of (links that are exchanged, network disks, a folder
        that is replaced by another) is found by looking every few seconds.
        """
        seen = await asyncio.to_thread(self._signature)
        while True:
            folder = _identity(self.root)
            with contextlib.suppress(OSError, RuntimeError):
                async for changes in awatch(
                    self.root, debounce=200, step=50, rust_timeout=_LOOK_MILLISECONDS, yield_on_timeout=True
                ):
                    now = await asyncio.to_thread(self._signature)
                    if changes or now != seen:
                        seen = now
                        await asyncio.to_thread(self.reload)
                    if _identity(self.root) != folder:
                        break
            if (now := await asyncio.to_thread(self._signature)) != seen:
                seen = now
                await asyncio.to_thread(self.reload)
            await asyncio.sleep(1)

    def _signature(self) -> frozenset[tuple[str, int, int]]:
        found = []
        for path in self.root.rglob("*.y*ml"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((str(path), stat.st_mtime_ns, stat.st_size))
        return frozenset(found)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def digests(contracts: Mapping[str, EventContract]) -> dict[str, str]:
    """What the judge depends on, by event."""
    return {name: f"{contract.version} {contract.digest}" for name, contract in contracts.items()}
