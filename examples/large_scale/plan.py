"""What training on so many pictures needs: shards, disk, processor cores, nodes and hours, from measured rates.

python examples/large_scale/plan.py --bytes-per-picture 720000 --writes-per-core 8.7 --reads-per-core 9.4

The rates of a core are what `benchmarks/shards.py` prints for pictures of your size; that of a GPU is what an epoch of
`train.py` shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from normalkit.cli import run_script


@dataclass(frozen=True)
class Config:
    """Work out what a training on shards needs."""

    bytes_per_picture: float
    """Of a sample in a shard."""
    writes_per_core: float
    """Samples that one core writes into shards in a second."""
    reads_per_core: float
    """Samples that one core reads and augments in a second."""
    pictures: int = 14_000_000
    """In the data set; Omnidata's has 14 million."""
    samples_per_shard: int = 1000
    """In a shard."""
    epochs: int = 5
    """Passes over the data."""
    gpu_rates: tuple[float, ...] = (100, 200, 400)
    """Samples that one GPU trains on in a second: one row each, for a GPU and a network of your own."""
    nodes: tuple[int, ...] = (1, 4, 16)
    """Machines: one column each."""
    gpus_per_node: int = 8
    """GPUs in a machine."""
    cores_per_node: int = 96
    """Processor cores in a machine, of which each GPU's training process takes one."""


def main(cfg: Config) -> None:
    """Print both tables."""
    if cfg.cores_per_node <= cfg.gpus_per_node:
        raise ValueError(
            f"cores_per_node={cfg.cores_per_node}: wanted more than one for each of the {cfg.gpus_per_node} GPUs"
        )
    for line in [*storage(cfg), "", *hours(cfg)]:
        print(line)


def storage(cfg: Config) -> list[str]:
    """Shards, their size, and how long writing them takes."""
    shards = math.ceil(cfg.pictures / cfg.samples_per_shard)
    core_hours = cfg.pictures / cfg.writes_per_core / 3600
    rows = [
        ("shards", f"{shards:,} of {cfg.samples_per_shard * cfg.bytes_per_picture / 1e6:,.0f} MB"),
        ("storage", f"{cfg.pictures * cfg.bytes_per_picture / 1e12:,.1f} TB"),
        ("writing them", f"{core_hours:,.0f} core hours"),
    ]
    rows += [(f"on {n} node{'s' * (n > 1)}", f"{core_hours / n / cfg.cores_per_node:,.1f} hours") for n in cfg.nodes]
    return [f"| {cfg.pictures:,} pictures | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows)]


def hours(cfg: Config) -> list[str]:
    """Hours of training by the GPU's rate and the number of nodes, and the cores that keep such a GPU busy."""
    heads = [f"{n} node{'s' * (n > 1)}" for n in cfg.nodes]
    lines = [
        f"| a GPU's samples a second | cores to feed it | read, MB/s a node | {' | '.join(heads)} |",
        "|---" * (3 + len(cfg.nodes)) + "|",
    ]
    for wanted in cfg.gpu_rates:
        rate = sustained(cfg, wanted)
        spent = [cfg.pictures * cfg.epochs / (rate * cfg.gpus_per_node * n) / 3600 for n in cfg.nodes]
        need = wanted / cfg.reads_per_core
        note = "" if rate == wanted else f" (fed {rate:,.0f})"
        read = rate * cfg.gpus_per_node * cfg.bytes_per_picture / 1e6
        cells = [f"{wanted:,.0f}{note}", f"{need:.1f}", f"{read:,.0f}", *(f"{each:,.1f} h" for each in spent)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def sustained(cfg: Config, wanted: float) -> float:
    """The samples a second that a GPU gets: what it could take, or what its share of the cores reads."""
    cores = cfg.cores_per_node / cfg.gpus_per_node - 1
    return min(wanted, cores * cfg.reads_per_core)


if __name__ == "__main__":
    run_script(main, Config)
