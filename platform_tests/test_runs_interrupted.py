"""A signal during a run ends the run as failed, and is not swallowed."""

import os
import signal
import time

import dagster as dg
import pytest

from dataplatform.due import Due
from dataplatform.runs import Interrupted, execute


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_marks_the_run_as_failed_and_is_raised(number):
    @dg.asset
    def slow() -> None:
        os.kill(os.getpid(), number)
        time.sleep(20)

    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        with dg.DagsterInstance.ephemeral() as instance:
            with pytest.raises(Interrupted) as raised:
                execute(dg.Definitions([slow]), instance, Due(("slow",), None, None, "test", "digest"), "test")
            assert raised.value.signal == number
            assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.FAILURE]
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
