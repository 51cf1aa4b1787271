"""Captured collections in Dagster: the graph, what the checks say (a run to its end is in test_hours)."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
from source_lab import Lab

from dataplatform.cdc.assets import OPLOG_ERROR, OPLOG_WARNING, completeness_result, definitions, headroom_result
from dataplatform.cdc.state import CollectionState, PositionFile, UnitState
from dataplatform.cdc.status import CollectionStatus, status_of
from dataplatform.local.servers import CHECKOUT
from dataplatform.settings import Settings

KEY = dg.AssetKey(["mongo", "a__b"])


def status(**values: Any) -> CollectionStatus:
    return CollectionStatus(
        **({"collection": "a.b", "connection": "c", "table": "a__b", "state": "streaming"} | values)
    )


def test_the_graph_of_the_projects_own_contracts(tmp_path: Path) -> None:
    found = definitions(Settings(data_dir=tmp_path, schemas_dir=CHECKOUT / "schemas"))
    graph = found.resolve_asset_graph()
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert {"mongodb/shop__articles", "mongo_raw/shop__articles", "mongo/shop__articles"} <= keys
    assert len(keys) == 15
    names = {key.name for key in graph.asset_check_keys}
    assert names == {"reconciled", "complete", "oplog_headroom"}
    parents = graph.get(dg.AssetKey(["mongo", "shop__users"])).parent_keys
    assert parents == {dg.AssetKey(["mongo_raw", "shop__users"])}


def test_no_contracts_no_definitions(tmp_path: Path) -> None:
    assert not list(definitions(Settings(data_dir=tmp_path, schemas_dir=tmp_path)).assets or [])


def test_oplog_headroom() -> None:
    assert headroom_result(KEY, status(oplog_seconds_left=OPLOG_WARNING.total_seconds())).passed
    low = headroom_result(KEY, status(oplog_seconds_left=OPLOG_WARNING.total_seconds() - 1))
    assert (low.passed, low.severity) == (False, dg.AssetCheckSeverity.WARN)
    lower = headroom_result(KEY, status(oplog_seconds_left=OPLOG_ERROR.total_seconds() - 1))
    assert (lower.passed, lower.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert headroom_result(KEY, status()).passed


def test_an_oplog_that_is_not_full_yet_will_hold_more(lab: Lab) -> None:
    """Two hours old and a hundredth full: it will hold two hundred hours. A full one has what it has, less what is not landed."""
    contract = lab.contract("docs")
    now = datetime(2026, 11, 24, 8, tzinfo=UTC)
    for filled, expected in ((0.01, 199.0), (1.0, 1.0), (None, 1.0)):
        state = UnitState(
            passed=(int((now - timedelta(hours=1)).timestamp()), 1),
            oplog_first=now - timedelta(hours=2),
            oplog_filled=filled,
            oplog_asked_at=now,
            collections={contract.namespace: CollectionState(now - timedelta(hours=2))},
        )
        file = PositionFile(lab.settings, lab.unit).file
        present = file.read()
        file.write(msgspec.json.encode(state), None if present is None else present[1])
        (one,) = status_of(lab.settings, lab.contracts, now=now)
        assert one.oplog_seconds_left == expected * 3600


def test_complete_in_time() -> None:
    assert completeness_result(KEY, status(table_lag_seconds=60.0), 120).passed
    assert not completeness_result(KEY, status(table_lag_seconds=7201.0), 120).passed
    assert not completeness_result(KEY, status(table_lag_seconds=1.0, snapshot={"rows": 1}), 120).passed
    assert not completeness_result(KEY, status(), 120).passed
