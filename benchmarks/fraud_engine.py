"""Deciding one transaction by 50 rules of 4 conditions: the compiled policy, the traced one, and peers.

    python benchmarks/fraud_engine.py [--peers] [--rows 20000]

All judge the same transactions and must fire the same rules. `--peers` installs cel-expr-python (CEL's C++ binding), zen-engine,
rule-engine and business-rules into a temporary environment (from the configured package index); without it only ours run.
"""

import argparse
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEERS = {
    "cel-cpp": "cel-expr-python",
    "zen-engine": "zen-engine",
    "rule-engine": "rule-engine",
    "business-rules": "business-rules",
}
FIELDS = [f"n{number}" for number in range(24)] + [f"s{number}" for number in range(6)]


def rules(seed: int = 7) -> list[list[tuple[str, str, object]]]:
    """50 rules of 4 conditions joined by AND: fields, operators and values as a fraud team's would be."""
    chance = random.Random(seed)
    found = []
    for _ in range(50):
        rule: list[tuple[str, str, object]] = []
        for _ in range(4):
            if chance.random() < 0.2:
                rule.append((f"s{chance.randrange(6)}", "=", chance.choice("abcd")))
            else:
                rule.append(
                    (f"n{chance.randrange(24)}", chance.choice(["<", ">=", ">", "<="]), chance.randrange(10, 90))
                )
        found.append(rule)
    return found


def transactions(count: int, seed: int = 11) -> list[dict[str, object]]:
    """Facts that all are known; numbers 0 to 100, texts a to d."""
    chance = random.Random(seed)
    return [{f: chance.randrange(100) if f[0] == "n" else chance.choice("abcd") for f in FIELDS} for _ in range(count)]


def measure(decide, rows) -> tuple[float, float, list[list[int]]]:
    """p50 and p99 in microseconds of one decision, and what fired."""
    for row in rows[:200]:
        decide(row)
    times, fired = [], []
    gc.collect()
    gc.disable()
    clock = time.perf_counter_ns
    for row in rows:
        before = clock()
        out = decide(row)
        times.append(clock() - before)
        fired.append(out)
    gc.enable()
    times.sort()
    return times[len(times) // 2] / 1000, times[len(times) * 99 // 100] / 1000, fired


def ours(kind: str):
    """A function of facts that gives our outcome."""
    from dataplatform.fraud.compiled import compile_policy
    from dataplatform.fraud.policies import parse_policy
    from dataplatform.fraud.traced import Tracer

    lines = ["policy: p", "event: e", "unknown: hold", "levels: {monitor: 10, hold: 60, block: 200}", "rules:"]
    for number, rule in enumerate(rules()):
        when = " AND ".join(f"{f} {o} {v!r}" for f, o, v in rule)
        lines.append(f'  - {{name: r{number}, when: "{when}", score: 10}}')
    typed = parse_policy("\n".join(lines))
    if kind == "compiled":
        return compile_policy(typed, {}, {})
    return Tracer(typed, {}, {}).trace


def names_of(outcome) -> list[int]:
    names = outcome[2] if isinstance(outcome, tuple) else outcome.decision.rules
    return [int(name[1:]) for name in names]


def peer(name: str):
    """A function of facts that gives the numbers of the rules that fire; runs in the temporary environment."""
    if name == "cel-cpp":
        from cel_expr_python import cel

        types = {f: cel.Type.INT if f[0] == "n" else cel.Type.STRING for f in FIELDS}
        env = cel.NewEnv(variables=types)
        source = (
            "["
            + ", ".join(
                " && ".join(f"{f} {'==' if o == '=' else o} {json.dumps(v)}" for f, o, v in rule) for rule in rules()
            )
            + "]"
        )
        compiled = env.compile(source)
        return lambda row: [n for n, each in enumerate(compiled.eval(data=row).value()) if each.value()]
    if name == "zen-engine":
        import zen

        expressions = [
            " and ".join(f"{f} {'==' if o == '=' else o} {json.dumps(v)}" for f, o, v in rule) for rule in rules()
        ]
        nodes = {
            "nodes": [
                {"id": "in", "type": "inputNode", "name": "in", "position": {"x": 0, "y": 0}},
                {
                    "id": "ex",
                    "type": "expressionNode",
                    "name": "ex",
                    "position": {"x": 1, "y": 0},
                    "content": {
                        "expressions": [{"id": str(n), "key": f"r{n}", "value": e} for n, e in enumerate(expressions)]
                    },
                },
                {"id": "out", "type": "outputNode", "name": "out", "position": {"x": 2, "y": 0}},
            ],
            "edges": [
                {"id": "a", "sourceId": "in", "targetId": "ex", "type": "edge"},
                {"id": "b", "sourceId": "ex", "targetId": "out", "type": "edge"},
            ],
        }
        decision = zen.ZenEngine().create_decision(json.dumps(nodes))

        def decide(row):
            result = decision.evaluate(row)["result"]
            return [n for n in range(50) if result[f"r{n}"]]

        return decide
    if name == "rule-engine":
        import rule_engine

        compiled = [
            rule_engine.Rule(" and ".join(f"{f} {'==' if o == '=' else o} {json.dumps(v)}" for f, o, v in rule))
            for rule in rules()
        ]
        return lambda row: [n for n, each in enumerate(compiled) if each.matches(row)]
    from business_rules import run_all
    from business_rules.actions import BaseActions, rule_action
    from business_rules.variables import BaseVariables, numeric_rule_variable, string_rule_variable

    class Variables(BaseVariables):
        def __init__(self, row):
            self.row = row

    for field in FIELDS:
        wrap = numeric_rule_variable if field[0] == "n" else string_rule_variable
        setattr(Variables, field, wrap(label=field)(eval(f"lambda self: self.row[{field!r}]")))
        getattr(Variables, field).__name__ = field

    class Actions(BaseActions):
        def __init__(self):
            self.fired = []

        @rule_action(params={"number": "numeric"})
        def fire(self, number):
            self.fired.append(number)

    words = {
        "<": "less_than",
        "<=": "less_than_or_equal_to",
        ">": "greater_than",
        ">=": "greater_than_or_equal_to",
        "=": "equal_to",
    }
    listed = [
        {
            "conditions": {"all": [{"name": f, "operator": words[o], "value": v} for f, o, v in rule]},
            "actions": [{"name": "fire", "params": {"number": n}}],
        }
        for n, rule in enumerate(rules())
    ]

    def decide(row):
        actions = Actions()
        run_all(
            rule_list=listed, defined_variables=Variables(row), defined_actions=actions, stop_on_first_trigger=False
        )
        return actions.fired

    return decide


def run_peer(name: str, python: Path, count: int) -> tuple[float, float, list[list[int]]] | str:
    done = subprocess.run(
        [str(python), __file__, "--as-peer", name, "--rows", str(count)], capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1][:90]
    p50, p99, fired = json.loads(done.stdout)
    return p50, p99, fired


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--as-peer")
    arguments = parser.parse_args()
    if arguments.as_peer:
        p50, p99, fired = measure(peer(arguments.as_peer), transactions(arguments.rows))
        print(json.dumps([p50, p99, fired]))
        return
    rows = transactions(arguments.rows)
    p50, p99, outcomes = measure(ours("compiled"), rows)
    expected = [names_of(each) for each in outcomes]
    base = p50
    print(f"{arguments.rows:,} transactions × 50 rules × 4 conditions, µs a decision")
    print(f"{'engine':<34}{'p50':>9}{'p99':>9}{'× compiled':>12}  same")
    print(f"{'compiled':<34}{p50:>9.2f}{p99:>9.2f}{1:>12.1f}  -")
    chance = random.Random(3)
    holes = [{k: v for k, v in row.items() if chance.random() > 0.1} for row in rows]
    u50, u99, _ = measure(ours("compiled"), holes)
    print(f"{'compiled, a tenth of facts missing':<34}{u50:>9.2f}{u99:>9.2f}{u50 / base:>12.1f}  -")
    few = rows[: max(200, arguments.rows // 10)]
    t50, t99, traced = measure(ours("traced"), few)
    print(
        f"{'traced':<34}{t50:>9.2f}{t99:>9.2f}{t50 / base:>12.1f}  {[names_of(e) for e in traced] == expected[: len(few)]}"
    )
    if not arguments.peers:
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, package in PEERS.items():
            python = Path(folder) / name / "bin" / "python"
            subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
            installed = subprocess.run(
                [str(python), "-m", "pip", "install", "-q", package], capture_output=True, text=True
            )
            if installed.returncode:
                print(f"{name:<34}not to be had: {package}")
                continue
            count = 300 if name in ("business-rules", "rule-engine") else 3_000
            result = run_peer(name, python, count)
            if isinstance(result, str):
                print(f"{name:<34}{result}")
                continue
            print(
                f"{name:<34}{result[0]:>9.2f}{result[1]:>9.2f}{result[0] / base:>12.1f}  {result[2] == expected[:count]}"
            )


if __name__ == "__main__":
    main()
