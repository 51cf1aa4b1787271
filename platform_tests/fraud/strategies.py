"""Random policies with parameters, lists and facts that fit them, for the agreement of the three evaluators."""

from dataclasses import dataclass

from hypothesis import strategies as st

from dataplatform.fraud.fact_types import TypedPolicy, type_policy
from dataplatform.fraud.tree import (
    LEVELS,
    OPERATORS,
    And,
    Comparison,
    Condition,
    ConditionReference,
    Constant,
    InList,
    Not,
    Or,
    Parameter,
    ParameterReference,
    Policy,
    Rule,
)

INTEGERS = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 9007199254740993]),
    st.integers(-(2**63), 2**63 - 1),
)
FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 0.1, 0.5, 1.0, -1.0, 2.5, 1e300, -1e300, 5e-324, 2.0**53, 2.0**63, 9.5e18]),
    st.floats(allow_nan=False, allow_infinity=False),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "b", "KR", "it's", 'say "x"', "back\\slash", "\\n", "한국", "😀", "\n", "\t", "%", "a b", "A"]
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6),
)
NUMBERS = st.one_of(INTEGERS, FLOATS)
FACTS = {"n.a": NUMBERS, "n.b": NUMBERS, "n.small": st.integers(0, 4), "t.a": TEXTS, "t.b": TEXTS, "f.a": st.booleans()}
KIND = {"n": "NUMBER", "t": "STRING", "f": "BOOL"}
LISTS = {"numbers": "NUMBER", "texts": "STRING", "empty": None}
NAMES = [f"c{number}" for number in range(4)]


@dataclass(frozen=True)
class Case:
    """A policy with everything that it is evaluated with."""

    typed: TypedPolicy
    parameters: dict
    lists: dict
    facts: list


@st.composite
def parameters(draw):
    number = draw(st.integers(-5, 5))
    return (
        Parameter("p_int", "INT64", number, "days", min=-10, max=10, owner="fds", description="An age."),
        Parameter("p_float", "FLOAT64", draw(FLOATS)),
        Parameter("p_text", "STRING", draw(TEXTS)),
        Parameter("p_flag", "BOOL", draw(st.booleans())),
    )


@st.composite
def tests(draw):
    fact = draw(st.sampled_from(sorted(FACTS)))
    kind = KIND[fact[0]]
    if kind != "BOOL" and draw(st.integers(0, 4)) == 0:
        return InList(fact, draw(st.sampled_from(["numbers" if kind == "NUMBER" else "texts", "empty"])))
    operator = draw(st.sampled_from(["=", "!="] if kind == "BOOL" else list(OPERATORS)))
    if draw(st.integers(0, 3)) == 0:
        names = {"NUMBER": ["p_int", "p_float"], "STRING": ["p_text"], "BOOL": ["p_flag"]}[kind]
        return Comparison(fact, operator, ParameterReference(draw(st.sampled_from(names))))
    return Comparison(fact, operator, Constant(draw(FACTS[fact])))


EXPRESSIONS = st.recursive(
    st.one_of(tests(), st.sampled_from(NAMES).map(ConditionReference)),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(lambda each: And(tuple(each))),
        st.lists(inner, min_size=2, max_size=3).map(lambda each: Or(tuple(each))),
    ),
    max_leaves=6,
)


@st.composite
def policies(draw, max_rules=6):
    count = draw(st.integers(1, max_rules))
    rules = []
    for number in range(count):
        level = draw(st.sampled_from([None, None, *LEVELS]))
        rules.append(
            Rule(
                f"r{number}",
                draw(EXPRESSIONS),
                draw(st.integers(-20, 60)),
                level,
                draw(st.sampled_from(["", "Why: it's so."])),
            )
        )
    scores = sorted(draw(st.sets(st.integers(-10, 150), max_size=5)))
    chosen = sorted(draw(st.sets(st.sampled_from(range(1, 6)), min_size=len(scores), max_size=len(scores))))
    return Policy(
        name="random",
        event="send_transfer_pay",
        unknown=draw(st.sampled_from(LEVELS)),
        rules=tuple(rules),
        parameters=draw(parameters()),
        conditions=tuple(Condition(name, draw(tests())) for name in NAMES),
        levels=tuple((LEVELS[rank], score) for rank, score in zip(chosen, scores, strict=True)),
    )


LIST_VALUES = st.fixed_dictionaries(
    {
        "numbers": st.frozensets(st.one_of(st.integers(0, 4), NUMBERS), max_size=5),
        "texts": st.frozensets(TEXTS, max_size=5),
        "empty": st.just(frozenset()),
    }
)
FACT_ROWS = st.fixed_dictionaries({}, optional={name: st.one_of(st.none(), values) for name, values in FACTS.items()})


@st.composite
def cases(draw, max_rules=6, min_facts=1, max_facts=10):
    policy = draw(policies(max_rules))
    lists = draw(LIST_VALUES)
    kinds = {name: kind for name, kind in LISTS.items() if lists[name]} | {
        name: None for name in LISTS if not lists[name]
    }
    typed, problems = type_policy(policy, lists=kinds)
    assert not problems
    rows = draw(st.lists(FACT_ROWS, min_size=min_facts, max_size=max_facts))
    rows = [{k: v for k, v in row.items() if typed.types.get(k) != "ANY" or v is not None} for row in rows]
    return Case(typed, policy.defaults(), lists, rows)
