"""The lineage of a warehouse that the project itself has built: every column has its sources, every query is told."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "events"))
from small_project import HOUR, START, Project, click

from dataplatform.contracts.load import load_contracts
from dataplatform.fraud.labels import replace_labels
from dataplatform.lineage import stored
from dataplatform.lineage.described import columns_without_source, describe_columns
from dataplatform.lineage.impact import Graph
from dataplatform.warehouse.client import Warehouse


@pytest.mark.timeout(300)
def test_events_from_landing_to_tables(settings_for: Any, tmp_path: Path) -> None:
    project = Project(settings_for(first_hour=START, lookback_hours=4), tmp_path)
    unknown = '{"event_id": "v1", "event": "view_item_shop", "params": {"item_id": 7}}'
    paid = '{"event_id": "p1", "event": "pay_order_bank", "params": {"amount": "1.5", "items": [{"sku": "s"}]}}'
    project.land(START, [unknown, paid, click("0-a"), click("shared"), click("0-b", "nonsense")])
    project.land(START + HOUR, [click("1-a"), click("shared")])
    stream = project.stream
    list(stream.close(START + 2 * HOUR))
    for piece in stream.due(START + 2 * HOUR):
        stream.materialise(piece.assets, piece.start, piece.end)

    settings = project.settings
    replace_labels(Warehouse(settings), [])  # before the first case is closed
    Warehouse(settings).query(f"CREATE TABLE `{settings.project}.{settings.dataset('fraud')}.unwritten` (x INT64)")
    warehouse = stored.catalog_warehouse(settings)
    contracts = load_contracts(settings.schemas_dir)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    stored.collect(warehouse, now - timedelta(hours=1), now + timedelta(hours=1))
    stored.declare(warehouse, settings, contracts, {"events/click_item_shop": "180 min"})
    describe_columns(warehouse, Graph(stored.stored_edges(settings)))
    ours = [name for name in columns_without_source(warehouse) if f".{settings.dataset_prefix}" in name]
    assert ours == []
    unwritten = [
        name
        for name in columns_without_source(warehouse, of_empty_tables=True)
        if f".{settings.dataset_prefix}" in name
    ]
    assert unwritten == [f"{settings.project}.{settings.dataset('fraud')}.unwritten.x"]
    untold = warehouse.query(
        f"SELECT text, details FROM `{warehouse.table_id('data_catalog', 'lineage_queries')}`"
        f" WHERE status != 'resolved' AND text LIKE '%{settings.dataset_prefix}%'"
    ).rows
    assert untold == []
    columns = warehouse.query(
        f"SELECT COUNTIF(has_source) AS told FROM `{warehouse.table_id('data_catalog', 'columns')}`"
        f" WHERE STARTS_WITH(table_name, '{warehouse.dataset_id('events')}')"
    ).rows
    assert columns[0]["told"] > 50
