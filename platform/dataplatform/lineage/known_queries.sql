-- Queries whose kept resolution still holds: of this version of the resolver, and no table they name has changed, or come, since.
WITH
  changed AS (
    SELECT table_name, MAX(changed_at) AS at FROM `{dataset}.schemas` GROUP BY table_name
  ),
  named AS (
    SELECT fingerprint, source_table AS table_name FROM `{dataset}.lineage_edges` WHERE replaced_at IS NULL
    UNION DISTINCT
    SELECT fingerprint, target_table FROM `{dataset}.lineage_edges` WHERE replaced_at IS NULL
    UNION DISTINCT
    SELECT q.fingerprint, REPLACE(detail, 'unknown_schema: ', '')
    FROM `{dataset}.lineage_queries` AS q, UNNEST(q.details) AS detail
    WHERE STARTS_WITH(detail, 'unknown_schema: ')
  ),
  outdated AS (
    SELECT DISTINCT q.fingerprint
    FROM `{dataset}.lineage_queries` AS q
    JOIN named AS n ON n.fingerprint = q.fingerprint
    JOIN changed AS c ON c.table_name = n.table_name
    WHERE c.at > q.resolved_at
  )
SELECT fingerprint
FROM `{dataset}.lineage_queries`
WHERE resolver_version = @version AND fingerprint NOT IN (SELECT fingerprint FROM outdated)
