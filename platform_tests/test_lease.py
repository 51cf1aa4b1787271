"""The lease: who cannot renew it no longer trusts it."""

import time

import pytest

from dataplatform import lease as lease_module
from dataplatform.landing import open_landing
from dataplatform.lease import LeaseLostError
from dataplatform.settings import Settings


def test_a_lease_that_cannot_be_renewed_is_not_held_for_longer_than_others_honour_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "TTL_SECONDS", 0.8)
    file = open_landing(Settings(data_dir=tmp_path), "events").conditional("lease.json")
    lease = lease_module.Lease(file)
    with lease.hold("first"):
        time.sleep(1.2)
        lease.check()  # renewed all the while

        def away(*_: object) -> str:
            raise OSError("no space left on device")

        monkeypatch.setattr(type(file), "write", away)
        lease.check()  # still within the time that others honour
        time.sleep(1.2)
        with pytest.raises(LeaseLostError, match="not renewed"):
            lease.check()
        monkeypatch.undo()
