CREATE TABLE p.d.t (
  a INT64, b STRING, c STRING, d DATE, n FLOAT64, ts TIMESTAMP, ok BOOL,
  s STRUCT<x INT64, y STRING, z STRUCT<w INT64>>,
  arr ARRAY<INT64>,
  items ARRAY<STRUCT<sku STRING, price NUMERIC, tags ARRAY<STRING>>>,
  doc JSON
);
CREATE TABLE p.d.u (a INT64, k STRING, v FLOAT64, uts TIMESTAMP);
CREATE TABLE p.d.w (a INT64, b STRING, e INT64);
CREATE TABLE p.d.q (product STRING, quarter STRING, sales INT64);
CREATE TABLE p.d.qq (product STRING, q1 INT64, q2 INT64);
CREATE TABLE p.d.tree (id INT64, parent INT64, name STRING);
CREATE TABLE p.d.t2 (a INT64, b STRING);
CREATE TABLE p.d.target (id INT64, name STRING, total FLOAT64, info STRUCT<x INT64, y STRING>);
CREATE TABLE p.d.`events_*` (event STRING, user STRING, day DATE);
CREATE TABLE other-proj.d2.t (a INT64, secret STRING);
CREATE TABLE p.a.u (z INT64);
CREATE TABLE p.a.t (a INT64, u ARRAY<INT64>);
CREATE TABLE p.a.plain (a INT64);
CREATE VIEW p.d.v1 AS SELECT a, UPPER(b) AS bb, s FROM d.t WHERE ok;
CREATE VIEW p.d.v2 AS SELECT bb, a + 1 AS a1 FROM d.v1;
CREATE VIEW p.d.v_named (one, two) AS SELECT a, k FROM d.u;
CREATE VIEW p.d.v_piped AS FROM d.t |> WHERE ok |> AGGREGATE MAX(n) AS top GROUP BY b AS bee;
CREATE VIEW p.d.v_open AS SELECT * FROM d.nowhere;
CREATE FUNCTION p.d.half(x FLOAT64) AS (x / 2);
CREATE FUNCTION p.d.ratio(x FLOAT64, y FLOAT64) AS (IF(y = 0, NULL, p.d.half(x) / y));
CREATE TABLE FUNCTION p.d.rows_of(key STRING) AS SELECT a, v FROM d.u WHERE k = key;
CREATE FUNCTION p.d.script(x STRING, y INT64) RETURNS STRING LANGUAGE js AS "return x";
CREATE PROCEDURE p.d.fill(threshold INT64) BEGIN INSERT INTO d.w (a, b) SELECT a, b FROM d.t WHERE n > threshold; END;
