"""What was measured, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from sem_depth_node.benchmark.machine import Company, Machine, peak_memory_mib
from sem_depth_node.benchmark.turns import Timing

if TYPE_CHECKING:
    from sem_depth_node.ros.node_benchmark import NodeMeasurement, Spread

# Stages whose subjects do the same thing, so that a ratio says something.
_COMPARABLE = ("engine", "cloud")


def timings_table(timings: Sequence[Timing], title: str) -> Table:
    """One row for each subject."""
    table = Table("what", "median ms", "p5", "p95", "ratio to the first", title=title)
    stage = timings[0].stage
    for timing in timings:
        if timing.stage != stage:
            table.add_section()
            stage = timing.stage
        ratio = f"{timing.ratio:.2f} ({timing.ratio_low:.2f}..{timing.ratio_high:.2f})"
        table.add_row(
            timing.name,
            f"{timing.median:.2f}",
            f"{timing.p5:.2f}",
            f"{timing.p95:.2f}",
            ratio if timing.stage in _COMPARABLE else "",
        )
    return table


def nodes_table(nodes: Sequence[NodeMeasurement]) -> Table:
    """One column for each setup of the whole node."""
    table = Table("the node, every output subscribed; ms", *(node.setup.name for node in nodes))
    for name in nodes[0].age:
        table.add_row(f"age of {name}", *(_spread(node.age[name]) for node in nodes))
    table.add_section()
    for name in nodes[0].times:
        table.add_row(name, *(_spread(node.times[name]) for node in nodes))
    table.add_section()
    for title, values in (
        ("images sent, lost, answered", [f"{node.sent}, {node.lost}, {node.answered}" for node in nodes]),
        ("answered a second", [f"{node.rate:.2f}" for node in nodes]),
        ("start to first depth (s)", [f"{node.first_depth:.2f}" for node in nodes]),
        ("peak resident memory (MiB)", [f"{node.peak_memory_mib:.0f}" for node in nodes]),
        ("processors used", [f"{node.processors:.2f}" for node in nodes]),
        ("by camera and listeners", [f"{node.rig_processors:.2f}" for node in nodes]),
    ):
        table.add_row(title, *values)
    return table


def as_json(
    bundle: str,
    machine: Machine,
    company: Company,
    timings: Sequence[Timing],
    nodes: Sequence[NodeMeasurement],
) -> dict[str, object]:
    """Everything that was measured, as JSON can hold it; times in ms where nothing else is said."""
    return {
        "bundle": bundle,
        "machine": asdict(machine),
        "processors_used_by_others": company.processors,
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "unit": "ms",
        "timings": [asdict(timing) for timing in timings],
        "nodes": [asdict(node) for node in nodes],
    }


def _spread(spread: Spread) -> str:
    return f"{spread.median:.1f} ({spread.p5:.1f}..{spread.p95:.1f})"
