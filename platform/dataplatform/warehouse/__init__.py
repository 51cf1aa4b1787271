"""The warehouse: the only package that imports google.cloud.bigquery.

`client` runs statements, load jobs and bulk reads; `tables` makes tables what they should be. The embedded server differs from
BigQuery in a few places; each is behind a function here, so that no other package needs to know where it runs.
"""
