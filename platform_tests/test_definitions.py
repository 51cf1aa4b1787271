"""The checkout's definitions as Dagster's code server loads them: all domains together."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from dataplatform.catch_up import streams
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


def test_a_broken_contract_of_a_collection_leaves_out_only_what_needs_it(tmp_path, caplog):
    """Its own tables, and fraud detection whose features name it; the other collections and domains stay, and the file is named."""
    schemas = tmp_path / "schemas"
    shutil.copytree(SCHEMAS, schemas)
    file = schemas / "collections" / "shop.articles.yaml"
    file.write_text("connection: [")
    settings = Settings(
        env="local", data_dir=tmp_path, schemas_dir=schemas, first_hour=datetime(2026, 1, 1, tzinfo=UTC)
    )
    keys = {
        key.to_user_string() for key in definitions_for(settings).get_repository_def().asset_graph.get_all_asset_keys()
    }
    assert {"events/ledger", "mongo/shop__users"} <= keys
    assert not {"mongo/shop__articles", "fraud/alerts"} & keys
    assert f"fraud detection is left out: {file}:" in caplog.text
    known, left_out = streams(settings)
    assert [stream.name for stream in known] == ["events", "mongo", "lineage"]
    assert left_out[0].startswith(f"{file}:")
    assert any("no event is called shop.articles" in line for line in left_out)
    file.unlink()
    (schemas / "collections" / "shop.unused.yaml").write_text("connection: [")
    shutil.copyfile(SCHEMAS / "collections" / file.name, file)
    assert len(streams(settings)[0]) == 4, "nothing of fraud detection names it"
