"""One Dagster project from contracts in Git to tables, lineage, decisions and service levels on BigQuery."""
