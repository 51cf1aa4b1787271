"""Impact over a graph of a million edges: a column with 10,000 descendants, both ways. `--edges N` for another size."""

import argparse
import random
import resource
import time
from collections.abc import Iterator

from dataplatform.lineage.impact import Graph, StoredEdge


def edges(count: int) -> Iterator[StoredEdge]:
    """10,000 descendants of one column over five levels, in a warehouse of unrelated edges."""
    level = [("p.hub.t", "c")]
    made = 0
    for depth in range(5):
        following = []
        for number in range(2000):
            source = level[number % len(level)]
            target = (f"p.level{depth}.t{number // 40}", f"c{number % 40}")
            following.append(target)
            yield StoredEdge(*source, *target, "DIRECT", "IDENTITY", job_id="job")
            made += 1
        level = following
    chosen = random.Random(3)
    while made < count:
        source = (f"p.wide.t{chosen.randrange(20_000)}", f"c{chosen.randrange(40)}")
        target = (f"p.wide.t{chosen.randrange(20_000)}", f"c{chosen.randrange(40)}")
        yield StoredEdge(*source, *target, "DIRECT", "TRANSFORMATION", expression="UPPER(x)", job_id="job")
        made += 1


def main() -> None:
    """Build, ask, print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--edges", type=int, default=1_000_000)
    count = arguments.parse_args().edges
    started = time.perf_counter()
    graph = Graph(edges(count))
    built = time.perf_counter() - started
    print(
        f"{len(graph.edges):,} edges, built in {built:.1f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB"
    )
    for name, start, direction in (
        ("downstream of the hub", ("p.hub.t", "c"), "downstream"),
        ("upstream of a leaf", ("p.level4.t3", "c7"), "upstream"),
    ):
        best, found = 9.9, []
        for _ in range(5):
            started = time.perf_counter()
            found = graph.reach(start, direction)
            best = min(best, time.perf_counter() - started)
        print(f"{name:24} {len(found):>8,} columns in {best * 1e3:8.2f} ms")


if __name__ == "__main__":
    main()
