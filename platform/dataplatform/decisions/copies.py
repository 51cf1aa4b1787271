"""The Git copy of live parameters, kept by the decision service: whoever made a version live, and from wherever."""

import asyncio
import logging
from collections.abc import Mapping

from ..fraud.git_copy import commit_live
from ..settings import Settings
from .bench import Benches

LOOK_SECONDS = 1.0
AGAIN_SECONDS = 60.0
log = logging.getLogger(__name__)


class LiveCopy:
    """Writes the copy when another version went live. Where it cannot, decisions go on, `failed` says why, and it tries again."""

    def __init__(self, settings: Settings, benches: Benches) -> None:
        self.folder = settings.data_dir / "fraud" / "parameters"
        self.remote = settings.fraud_git_remote
        self.benches = benches
        self.failed = ""
        self._written: Mapping[str, int] = {}

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(AGAIN_SECONDS if self.failed else LOOK_SECONDS)
            await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Write what went live since the last time. Versions 1 are the defaults of the policies' files: Git has them."""
        store, live = self.benches.store, self.benches.live_versions
        if store is None or live == self._written or all(version == 1 for version in live.values()):
            return
        try:
            made = commit_live(store, self.folder, self.remote)
        except Exception as error:  # of Git, the disk, or the store's driver
            self.failed = str(error).partition("\n")[0]
            log.error("the Git copy of the parameters was not written: %s", error)
            return
        self.failed, self._written = "", live
        if made:
            log.info("%d versions of parameters in the Git copy", made)
