"""What functions do to what goes through them, where that is not plain from the syntax tree."""

from sqlglot import exp

MASKING: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.MD5,
        exp.MD5Digest,
        exp.SHA,
        exp.SHA1Digest,
        exp.SHA2,
        exp.SHA2Digest,
        exp.FarmFingerprint,
        exp.Count,
        exp.CountIf,
        exp.ApproxDistinct,
    }
)
"""Functions whose result does not show its argument: hashes and counts."""

MASKING_NAMES = frozenset(
    [
        "ENCRYPT",
        "DETERMINISTIC_ENCRYPT",
        "MD5",
        "SHA1",
        "SHA256",
        "SHA512",
        "FARM_FINGERPRINT",
        "INIT",
        "MERGE",
        "MERGE_PARTIAL",
        "EXTRACT",
    ]
)
"""The same, for functions the parser knows no class of. INIT, MERGE, EXTRACT are those of HLL_COUNT."""

PACKAGES_THAT_MASK = frozenset({"AEAD", "DETERMINISTIC_ENCRYPT", "HLL_COUNT"})

NAVIGATION: frozenset[type[exp.Expr]] = frozenset({exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue, exp.NthValue})
"""Window functions that pick a row's value instead of aggregating."""

PICKING: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.AnyValue,
        exp.ArrayAgg,
        exp.ArrayConcatAgg,
        exp.Max,
        exp.Min,
        exp.ArgMax,
        exp.ArgMin,
        exp.First,
        exp.Last,
        *NAVIGATION,
    }
)
"""Aggregates whose result is one of their inputs, or an array of them: fields of a STRUCT stay apart."""

AGGREGATE_NAMES = frozenset({"INIT", "MERGE", "MERGE_PARTIAL"})
"""Functions of HLL_COUNT that aggregate."""

KEEPING: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.Paren,
        exp.Coalesce,
        exp.Array,
        exp.ArrayConcat,
        exp.ArrayReverse,
        exp.IgnoreNulls,
        exp.RespectNulls,
        exp.Distinct,
        exp.ArraySlice,
        exp.ArrayFilter,
        exp.Greatest,
        exp.Least,
        exp.SafeFunc,
    }
)
"""Operations whose result is made of their arguments as they are."""

TRANSPARENT: frozenset[type[exp.Expr]] = frozenset({exp.Paren, exp.IgnoreNulls, exp.RespectNulls, exp.Distinct})
"""Those of them that change nothing."""

NO_VALUE: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.Literal,
        exp.Null,
        exp.Boolean,
        exp.Var,
        exp.DataType,
        exp.Identifier,
        exp.JSONPath,
        exp.RawString,
        exp.Table,
        exp.Star,
        exp.WindowSpec,
    }
)
"""Nodes that no column can be in."""
