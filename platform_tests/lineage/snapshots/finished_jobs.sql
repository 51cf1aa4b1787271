-- Jobs of one project and region that ended in the range, each once. A script counts as a whole, for only its whole text tells
-- what goes through its temporary tables; but where it runs text that is computed, or procedures, its child jobs count instead of it.
SELECT
  job.job_id, job.project_id, job.query, job.job_type, job.statement_type, job.user_email, job.parent_job_id,
  job.creation_time, job.start_time, job.end_time, job.total_bytes_processed,
  TO_JSON_STRING(job.labels) AS labels,
  job.destination_table.project_id AS target_project,
  job.destination_table.dataset_id AS target_dataset,
  job.destination_table.table_id AS target_table
FROM `shop-prod`.`region-eu`.INFORMATION_SCHEMA.JOBS AS job
LEFT JOIN `shop-prod`.`region-eu`.INFORMATION_SCHEMA.JOBS AS script
  ON script.job_id = job.parent_job_id
  AND script.creation_time >= TIMESTAMP_SUB(@start, INTERVAL 2 DAY) AND script.creation_time < @end
WHERE job.creation_time >= TIMESTAMP_SUB(@start, INTERVAL 1 DAY) AND job.creation_time < @end
  AND job.end_time >= @start AND job.end_time < @end
  AND job.state = 'DONE' AND job.error_result IS NULL AND NOT COALESCE(job.cache_hit, FALSE)
  AND NOT (
    COALESCE(job.statement_type, '') = 'SCRIPT'
    AND REGEXP_CONTAINS(COALESCE(job.query, ''), r'(?i)\b(?:EXECUTE\s+IMMEDIATE|CALL)\b')
  )
  AND (
    job.parent_job_id IS NULL
    OR REGEXP_CONTAINS(COALESCE(script.query, 'CALL'), r'(?i)\b(?:EXECUTE\s+IMMEDIATE|CALL)\b')
  )
ORDER BY job.end_time, job.job_id
