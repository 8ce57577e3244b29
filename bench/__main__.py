"""`make bench`: Haltuun beside the bare thing, measured in the same run. Timings pass or fail nothing; a run
over a large account that does not keep what is promised of it ends this with 1."""

from __future__ import annotations

import os
import sys
import time

from rich.console import Console
from rich.table import Table

from bench.figures import FIGURES
from bench.host import ssh_probe, stale_repair
from bench.measure import Figure
from bench.scale import MOST_MB, Sample, broken, scale, scale_table
from haltuun.errors import HaltuunError
from lab.errors import LabError


def main() -> int:
    began = time.monotonic()
    console = Console()
    if not console.is_terminal:
        console.width = 120
    figures: list[Figure] = []
    for measure in FIGURES:
        console.print(f"[dim]{measure.__name__} ...", highlight=False)
        figures.append(measure())
    if os.geteuid() == 0:
        for measure in (ssh_probe, stale_repair):
            console.print(f"[dim]{measure.__name__} ...", highlight=False)
            try:
                figures.append(measure())
            except (LabError, HaltuunError) as error:
                console.print(f"{measure.__name__} was left out: {error}")
    else:
        console.print("ssh_probe and stale_repair were left out: their lab needs root.")
    console.print(table(figures))
    samples: list[Sample] = []
    for sample in scale():
        samples.append(sample)
        console.print(f"[dim]{sample.hosts:,} hosts in {sample.seconds:.0f} s", highlight=False)
    console.print(scale_table(samples))
    told = [line for at, one in enumerate(samples) for line in broken(one, samples[at - 1] if at else None)]
    for line in told:
        console.print(f"[red]NOT KEPT[/] {line}", highlight=False)
    if not told:
        console.print(
            f"Up to {samples[-1].hosts:,} hosts: every task run recorded and ended, each host looked at once"
            f" a stage, the worker under {MOST_MB} MB, its time linear.",
            highlight=False,
        )
    console.print(f"{time.monotonic() - began:.0f} s on {os.cpu_count()} CPUs, medians of rounds in turns.")
    return 1 if told else 0


def table(figures: list[Figure]) -> Table:
    made = Table(box=None, pad_edge=False)
    for title in ("figure", "Haltuun", "peer", "alone", "ratio"):
        made.add_column(title, justify="left" if title in ("figure", "peer") else "right", no_wrap=True)
    for one in figures:
        made.add_row(one.what, one.rate(one.ours_s), one.peer, one.rate(one.peer_s), f"{one.ratio:.2f}×")
    return made


if __name__ == "__main__":
    sys.exit(main())
