"""The checkout's definitions as Dagster's code server loads them: all domains together."""

from datetime import UTC, datetime
from pathlib import Path

from dataplatform.definitions import definitions_for
from dataplatform.settings import Settings

SCHEMAS = Path(__file__).parents[1] / "schemas"


def test_all_definitions_load_together(tmp_path):
    """Names of jobs, steps and checks of one domain do not meet those of another; nothing is asked of any server."""
    settings = Settings(
        env="local", data_dir=tmp_path, schemas_dir=SCHEMAS, first_hour=datetime(2026, 1, 1, tzinfo=UTC)
    )
    repository = definitions_for(settings).get_repository_def()
    repository.load_all_definitions()
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    assert {"events/ledger", "fraud/alerts", "mongo/shop__articles", "fraud/policies/bait_article"} <= keys
    parents = repository.asset_graph.get(
        next(k for k in repository.asset_graph.get_all_asset_keys() if k.path[-1] == "bait_article")
    )
    assert "mongo/shop__articles" in {key.to_user_string() for key in parents.parent_keys}
