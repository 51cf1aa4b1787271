"""Marks of personal data: they go on, and stop at what the policy states."""

import msgspec
import pytest

from dataplatform.lineage.catalog import catalog_from
from dataplatform.lineage.impact import Graph, StoredEdge
from dataplatform.lineage.pii import MaskingPolicy, forbidden, masked_by, spread
from dataplatform.lineage.resolve import resolve


def edge(
    source: str, target: str, subtype: str = "IDENTITY", expression: str = "x", masking: bool = False
) -> StoredEdge:
    (source_table, source_column), (table, column) = source.rsplit(".", 1), target.rsplit(".", 1)
    type_ = "INDIRECT" if subtype in ("FILTER", "JOIN", "GROUP_BY") else "DIRECT"
    return StoredEdge(source_table, source_column, table, column, type_, subtype, masking, expression, job_id="job")


def test_marks_follow_direct_edges_only() -> None:
    graph = Graph(
        [
            edge("p.a.users.email", "p.b.users.contact", "TRANSFORMATION", "LOWER(email)"),
            edge("p.b.users.contact", "p.c.mail.to_"),
            edge("p.a.users.email", "p.b.other.n", "FILTER", "email IS NOT NULL"),
            edge("p.a.users.email", "p.b.users.hashed", "TRANSFORMATION", "SHA256(CONCAT(@salt, email))", True),
            edge("p.b.users.hashed", "p.c.mail.key"),
        ]
    )
    result = spread(graph, {("p.a.users", "email"): "email"})
    assert [(one.node, one.mark, len(one.path)) for one in result.findings] == [
        (("p.b.users", "contact"), "email", 1),
        (("p.c.mail", "to_"), "email", 2),
    ]
    assert [(one.edge.target, one.why) for one in result.stopped] == [(("p.b.users", "hashed"), "hash sha2digest")]
    assert [one.node for one in forbidden(result.findings, {"p.c": frozenset({"phone"})})] == [("p.c.mail", "to_")]
    assert forbidden(result.findings, {"c": frozenset({"email"})}) == []


@pytest.mark.parametrize(
    ("expression", "stops"),
    [
        ("SHA256(email)", False),
        ("SHA256(CONCAT('salt', email))", False),  # a literal is in the query log
        ("SHA256(CONCAT(@salt, email))", True),
        ("TO_HEX(SHA256(CONCAT(secrets.salt, email)))", True),
        ("COUNT(DISTINCT email)", True),
        ("SUM(email)", True),
        ("MAX(email)", False),
        ("CONCAT(email, TO_HEX(SHA256(CONCAT(@salt, email))))", False),
        ("AEAD.ENCRYPT(keyset, email, '')", True),
        ("security.tokenize(email)", True),
        ("UPPER(tokenize(email))", True),
        ("tokenizer(email)", False),
        ("COALESCE(tokenize(email), email)", False),
        ("LOWER(email)", False),
        ("not ( sql", False),
    ],
)
def test_what_stops_a_mark(expression: str, stops: bool) -> None:
    one = edge("p.a.t.email", "p.b.t.x", "TRANSFORMATION", expression, expression.startswith(("SHA", "TO_HEX")))
    found = masked_by(one, MaskingPolicy())
    assert (found is not None) is stops


def test_a_policy_may_trust_any_hash() -> None:
    one = edge("p.a.t.email", "p.b.t.x", "TRANSFORMATION", "SHA256(email)", True)
    assert masked_by(one, MaskingPolicy(unsalted_hashes=True)) == "hash sha2digest"


def test_a_cut_expression_is_not_trusted() -> None:
    one = edge("p.a.t.email", "p.b.t.x", "TRANSFORMATION", "COUNT(" + "email, " * 300 + "1)")
    assert masked_by(one, MaskingPolicy()) is None


@pytest.mark.parametrize(
    ("statement", "stops"),
    [
        ("SELECT tokenize(e) AS x FROM p.d.t UNION ALL SELECT CAST(LOWER(e) AS BYTES) FROM p.d.t", False),
        ("SELECT tokenize(k) AS x FROM p.d.t UNION ALL SELECT CAST(LOWER(e) AS BYTES) FROM p.d.t", False),
        ("SELECT x FROM (SELECT CAST(k AS BYTES) AS x FROM p.d.t UNION ALL SELECT tokenize(e) FROM p.d.t)", True),
        ("SELECT SHA256(CONCAT(e, @salt)) AS x FROM p.d.t UNION ALL SELECT CAST(LOWER(e) AS BYTES) FROM p.d.t", False),
        (
            "INSERT INTO p.d.o (x) SELECT tokenize(e) FROM p.d.t; INSERT INTO p.d.o (x) SELECT LOWER(e) FROM p.d.t",
            False,
        ),
        (
            "INSERT INTO p.d.o (x) SELECT tokenize(e) FROM p.d.t; INSERT INTO p.d.o (x) SELECT tokenize(t.e) FROM p.d.t",
            True,
        ),
        (
            "MERGE p.d.o AS o USING p.d.t AS t ON o.k = t.k WHEN MATCHED THEN UPDATE SET x = SHA256(CONCAT(t.e, @salt)) "
            "WHEN NOT MATCHED THEN INSERT (k, x) VALUES (k, CAST(LOWER(e) AS BYTES))",
            False,
        ),
    ],
)
def test_a_mark_stops_only_where_every_clause_masks(statement: str, stops: bool) -> None:
    columns = [{"name": "k", "type": "STRING"}]
    catalog = catalog_from(
        {
            "p.d.t": {"columns": [*columns, {"name": "e", "type": "STRING"}]},
            "p.d.o": {"columns": [*columns, {"name": "x", "type": "BYTES"}]},
        }
    )
    edges = resolve(statement, catalog, project="p", destination="p.d.o").edges
    result = spread(
        Graph(StoredEdge(**{name: getattr(one, name) for name in one.__struct_fields__}, job_id="j") for one in edges),
        {("p.d.t", "e"): "email"},
    )
    assert bool(result.stopped) is stops
    assert bool(result.findings) is not stops


@pytest.mark.parametrize(
    ("statement", "stops"),
    [
        ("SELECT SUM(e) AS x FROM p.d.t", True),
        ("SELECT day AS k, SUM(e) AS x FROM p.d.t GROUP BY day", True),
        ("SELECT user_id AS k, SUM(e) AS x FROM p.d.t GROUP BY user_id", False),
        ("SELECT user_id AS k, COUNT(e) AS x FROM p.d.t GROUP BY user_id", True),
        ("SELECT AVG(e) AS x FROM p.d.t GROUP BY phone", False),  # a marked column is somebody's as well
        ("SELECT AVG(e) AS x FROM p.d.t GROUP BY contact", False),  # and so is what has been made of one
        ("SELECT y + 1 AS x FROM (SELECT AVG(e) AS y FROM p.d.t GROUP BY LOWER(t.User_Id))", False),
        ("SELECT SUM(e) OVER (PARTITION BY user_id) AS x FROM p.d.t", False),
        ("SELECT SUM(e) OVER () AS x FROM p.d.t", True),
    ],
)
def test_a_sum_stops_a_mark_unless_it_may_be_one_persons(statement: str, stops: bool) -> None:
    names = ("e", "user_id", "day", "phone", "contact")
    catalog = catalog_from({"p.d.t": {"columns": [{"name": name, "type": "STRING"} for name in names]}})
    found = resolve(statement, catalog, project="p", destination="p.d.o").edges
    edges = [StoredEdge(**{name: getattr(one, name) for name in one.__struct_fields__}, job_id="j") for one in found]
    edges.append(edge("p.d.t.phone", "p.d.t.contact"))
    other = edge("p.d.t.user_id", "p.d.o.*", "GROUP_BY")
    edges.append(msgspec.structs.replace(other, job_id="of another query into the same table"))
    result = spread(Graph(edges), {("p.d.t", "e"): "salary", ("p.d.t", "phone"): "phone"})
    assert [one.mark for one in result.stopped] == (["salary"] if stops else [])
    assert (("p.d.o", "x") in [one.node for one in result.findings]) is not stops


def test_what_was_encrypted_is_personal_again_where_it_is_decrypted() -> None:
    secret = "AEAD.ENCRYPT(keyset, email, '')"
    graph = Graph(
        [
            edge("p.a.users.email", "p.b.users.secret", "TRANSFORMATION", secret),
            edge("p.b.users.secret", "p.c.copy.secret"),
            edge("p.c.copy.secret", "p.c.clear.email", "TRANSFORMATION", "AEAD.DECRYPT_STRING(keyset, secret, '')"),
            edge("p.c.clear.email", "p.d.mail.to_", "TRANSFORMATION", "LOWER(email)"),
            edge("p.c.copy.secret", "p.d.counts.n", "AGGREGATION", "COUNT(DISTINCT secret)", True),
            edge("p.a.users.email", "p.b.users.token", "TRANSFORMATION", "security.tokenize(email)"),
            edge("p.b.users.token", "p.d.shown.email", "TRANSFORMATION", "security.detokenize(token)"),
            edge("p.a.users.email", "p.b.users.hashed", "TRANSFORMATION", "SHA256(CONCAT(@salt, email))", True),
            edge("p.b.users.hashed", "p.d.never.x", "TRANSFORMATION", "DETERMINISTIC_DECRYPT_STRING(k, hashed, '')"),
        ]
    )
    result = spread(graph, {("p.a.users", "email"): "email"})
    assert {one.node for one in result.findings} == {
        ("p.c.clear", "email"),
        ("p.d.mail", "to_"),
        ("p.d.shown", "email"),
    }
    assert {one.edge.target[1] for one in result.stopped} == {"secret", "token", "hashed"}
    assert [len(one.path) for one in result.findings if one.node == ("p.d.mail", "to_")] == [4]
