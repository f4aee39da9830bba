"""Measure opdata's worker against a Node worker and against two floors.

Called by run.sh, which has set everything up. The contenders take turns in
rounds, each alone: it is started with one job waiting, warmed up, measured,
stopped. Figures are medians over the rounds. Nothing fails on a missed goal.
"""

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICKS_PER_MS = os.sysconf("SC_CLK_TCK") / 1000
WARM_UP_JOBS = 200  # a JIT compiler needs some
PREVIEW_BENCH_WARM_UP = 5  # previews that it does not tell of
MEMORY_EVERY = 0.5  # seconds
STOP_WITHIN = 30  # seconds

# Linux may share out the CPU by session, of which each process of a PostgreSQL
# server has its own. So has everything else here.
OWN_SESSION: dict[str, Any] = {"start_new_session": True}

CONNECTION = "shop"
QUERY = "select * from purchase"
ROWS = 100
ORG = "bench"

Figures = dict[str, float]


def children(parent: int) -> list[int]:
    """Child processes, by asking every process for its parent."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def tree(pid: int) -> list[int]:
    return [pid] + [p for child in children(pid) for p in tree(child)]


def cpu_ms(pids: list[int]) -> float:
    """User and system time, of all threads, also those that have ended."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_MS


def memory_mib(pids: list[int]) -> tuple[float, float]:
    """Private memory and resident set of all of them together.

    To the kernel a page of shared memory that one process alone has touched is
    private too, and one of many counts as resident in each: both tell against
    a PostgreSQL server.
    """
    private = resident = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, kib = line.split()[:2]
            if name in ("Private_Clean:", "Private_Dirty:"):
                private += int(kib)
            elif name == "Rss:":
                resident += int(kib)
    return private / 1024, resident / 1024


class Contender:
    """A worker that serves previewQueryWorkflow on a task queue of its own."""

    def __init__(self, title: str, queue: str, rows: int) -> None:
        self.title = title
        self.queue = queue
        self.rows = rows

    def start(self) -> None:
        raise NotImplementedError

    def pids(self) -> list[int]:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


class Program(Contender):
    """A worker that is a program: its process tree counts."""

    def __init__(self, title: str, queue: str, rows: int, command: list[str]) -> None:
        super().__init__(title, queue, rows)
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, **OWN_SESSION)

    def pids(self) -> list[int]:
        assert self.process is not None
        if self.process.poll() is not None:
            sys.exit(f"{self.title}: the worker has ended, status {self.process.returncode}")
        return tree(self.process.pid)

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class Agent(Contender):
    """opdata: the background workers of a cluster count, all of them.

    Its start is that of the whole server.
    """

    def __init__(self, title: str, queue: str, rows: int, data: Path) -> None:
        super().__init__(title, queue, rows)
        self.data = data

    def pg_ctl(self, *arguments: str) -> None:
        log = ["-l", str(self.data / "log")]
        subprocess.run(["pg_ctl", "-D", self.data, "-s", *log, *arguments], check=True)

    def start(self) -> None:
        self.pg_ctl("-W", "start")

    def pids(self) -> list[int]:
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        found = []
        for pid in children(postmaster):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if title.startswith(b"postgres: opdata"):
                found.append(pid)
        if not found:
            sys.exit(f"{self.title}: no background worker is there")
        return sorted(found)

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self.pg_ctl("-w", "-m", "fast", "stop")


@contextmanager
def loaded_memory(contender: Contender) -> Iterator[list[tuple[float, float]]]:
    """Looks at the memory every now and then, for as long as the block lasts."""
    seen: list[tuple[float, float]] = []
    over = threading.Event()

    def look() -> None:
        while True:
            seen.append(memory_mib(contender.pids()))
            if over.wait(MEMORY_EVERY):
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.missed = 0

    def load_command(self, what: str, contender: Contender) -> list[str]:
        job = {"orgId": ORG, "connectionId": CONNECTION, "sql": QUERY}
        return [
            self.options.load,
            what,
            *("-address", self.options.address),
            *("-queue", contender.queue),
            *("-rows", str(contender.rows)),
            *("-input", json.dumps(job)),
        ]

    def run(self, contender: Contender, jobs: int, at_once: int) -> Figures:
        command = self.load_command("run", contender)
        command += ["-jobs", str(jobs), "-at-once", str(at_once)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False, **OWN_SESSION)
        if done.returncode != 0:
            sys.exit(f"{contender.title}: the jobs failed")
        figures: Figures = json.loads(done.stdout)
        self.missed += int(figures["missed"])
        return figures

    def first_job(self, contender: Contender) -> float:
        """Seconds from the start of the worker until a job that waits for it is done."""
        command = self.load_command("first", contender)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **OWN_SESSION) as client:
            assert client.stdout is not None
            if client.stdout.readline() != "queued\n":
                sys.exit(f"{contender.title}: the first job could not be queued")
            began = time.time()
            contender.start()
            ended = client.stdout.readline()
        if not ended:
            sys.exit(f"{contender.title}: the first job failed")
        return float(ended) - began

    def libpq(self) -> Figures:
        """The preview by libpq alone, from a program that compares it with opdata's SQL."""
        agent = f"host={self.options.agent_socket} user=super dbname=postgres"
        command = [self.options.preview_bench, str(self.options.jobs)]
        command += [agent, self.options.source, CONNECTION, QUERY]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, **OWN_SESSION)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)

        # nearly all of it signs in; that it also sends SQL to the agent is little
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        figures = done.stdout.split("\t")
        return {
            "p50": float(figures[2]),
            "p95": float(figures[3]),
            "cpu": 1000 * cpu / (self.options.jobs + PREVIEW_BENCH_WARM_UP),
        }

    def turn(self, contender: Contender) -> Figures:
        jobs: int = self.options.jobs
        first = self.first_job(contender)
        idle_private, idle_resident = memory_mib(contender.pids())
        self.run(contender, WARM_UP_JOBS, 8)

        workers = contender.pids()
        alone = self.run(contender, jobs, 1)
        before = cpu_ms(workers)
        at_8 = self.run(contender, 2 * jobs, 8)
        cpu = (cpu_ms(workers) - before) / (2 * jobs)
        with loaded_memory(contender) as memory:
            at_32 = self.run(contender, 2 * jobs, 32)
        if contender.pids() != workers:
            sys.exit(f"{contender.title}: processes came or went during the measurement")
        return {
            "p50": alone["p50"],
            "p95": alone["p95"],
            "at 8": at_8["perSecond"],
            "at 32": at_32["perSecond"],
            "cpu": cpu,
            "private idle": idle_private,
            "private loaded": max(private for private, _ in memory),
            "resident idle": idle_resident,
            "resident loaded": max(resident for _, resident in memory),
            "first": first,
        }


# Names of the columns.
NOOP, LIBPQ, OPDATA, NODE, NODE_LOCAL = "no-op", "libpq", "opdata", "Node", "Node local"


@dataclass
class Row:
    key: str
    title: str
    digits: int
    floors: tuple[str, ...] = (NOOP,)
    more_is_better: bool = False


ROWS_OF_TABLE = [
    Row("p50", "latency one at a time, p50, ms", 1, (NOOP, LIBPQ)),
    Row("p95", "latency one at a time, p95, ms", 1, (NOOP, LIBPQ)),
    Row("at 8", "jobs a second, 8 at once", 0, more_is_better=True),
    Row("at 32", "jobs a second, 32 at once", 0, more_is_better=True),
    Row("cpu", "worker CPU a job, 8 at once, ms", 2, (NOOP, LIBPQ)),
    Row("private idle", "private memory, idle, MiB", 1),
    Row("private loaded", "private memory, loaded, MiB", 1),
    Row("resident idle", "resident memory, idle, MiB", 1),
    Row("resident loaded", "resident memory, loaded, MiB", 1),
    Row("first", "start to first job done, s", 2),
]


@dataclass
class Goal:
    title: str
    rows: list[Row]
    rivals: tuple[str, ...]
    at_most: float  # times the rivals' figure; its inverse where more is better


def all_goals() -> list[Goal]:
    rows = {row.key: row for row in ROWS_OF_TABLE}
    memory = [rows["private idle"], rows["private loaded"]]
    p50 = rows["p50"]
    goals = [Goal("p50 at most 1.2 times the sum of the floors", [p50], p50.floors, 1.2)]
    for node in (NODE, NODE_LOCAL):
        goals += [
            Goal(f"better than {node} on every row", ROWS_OF_TABLE, (node,), 1),
            Goal(f"CPU a job at most 0.4 times that of {node}", [rows["cpu"]], (node,), 0.4),
            Goal(f"private memory at most 0.25 times that of {node}", memory, (node,), 0.25),
        ]
    return goals


Table = dict[str, dict[str, float]]


def medians(rounds: dict[str, list[Figures]]) -> Table:
    return {
        name: {key: statistics.median(r[key] for r in figures) for key in figures[0]}
        for name, figures in rounds.items()
    }


def ratio(table: Table, row: Row, rivals: tuple[str, ...]) -> float | None:
    """opdata's figure over the sum of the rivals'; None if one was not measured."""
    figures = [table[name][row.key] for name in (OPDATA, *rivals) if row.key in table.get(name, {})]
    return figures[0] / sum(figures[1:]) if len(figures) == len(rivals) + 1 else None


def show_table(table: Table) -> None:
    columns = [name for name in (NOOP, LIBPQ, OPDATA, NODE, NODE_LOCAL) if name in table]
    heads = [f"{name:>11}" for name in columns]
    heads += [f"{f'/ {name}':>13}" for name in ("floors", NODE, NODE_LOCAL)]
    print(f"{'':34}" + "".join(heads))
    for row in ROWS_OF_TABLE:
        line = f"{row.title:34}"
        for name in columns:
            figure = f"{table[name][row.key]:.{row.digits}f}" if row.key in table[name] else ""
            line += f"{figure:>11}"
        for rivals in (row.floors, (NODE,), (NODE_LOCAL,)):
            value = ratio(table, row, rivals)
            line += f"{'' if value is None else f'{value:.2f}':>13}"
        print(line)


def show_goals(table: Table) -> None:
    """Tells of each goal whether it was met, and in which rows it was not."""
    for goal in all_goals():
        ratios = [
            (row, value)
            for row in goal.rows
            if (value := ratio(table, row, goal.rivals)) is not None
        ]
        if len(ratios) < len(goal.rows):
            continue
        missed = [
            f"{row.title} ({value:.2f})"
            for row, value in ratios
            if (1 / value if row.more_is_better else value) > goal.at_most
        ]
        print(f"missed  {goal.title}: {'; '.join(missed)}" if missed else f"met     {goal.title}")


def contenders_of(options: argparse.Namespace) -> dict[str, Contender]:
    node_here = str(options.node_dir)
    source = dict(pair.split("=", 1) for pair in options.source.split())
    sources = json.dumps({CONNECTION: {
        "host": source["host"], "port": int(source["port"]), "database": source["dbname"],
        "user": source["user"], "password": source["password"], "ssl": False,
    }})

    def node(queue: str) -> list[str]:
        return [options.node, f"{node_here}/worker.js", options.address, queue,
                f"{node_here}/bundle.out.js", sources]

    noop = [options.load, "noop", "-address", options.address, "-queue", "bench-noop"]
    contenders: dict[str, Contender] = {
        NOOP: Program(NOOP, "bench-noop", 0, noop),
        OPDATA: Agent(OPDATA, f"tenant-{ORG}", ROWS, options.agent_data),
        NODE: Program(NODE, "bench-node", ROWS, node("bench-node")),
        NODE_LOCAL: Program(NODE_LOCAL, "bench-node-local", ROWS, node("bench-node-local")),
    }
    wanted = options.contenders.split(",") if options.contenders else list(contenders)
    return {name: contenders[name] for name in wanted}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True, help="of the Temporal frontend")
    parser.add_argument("--load", required=True, help="the load driver")
    parser.add_argument("--node", required=True, help="Node itself")
    parser.add_argument("--node-dir", required=True, type=Path, help="worker.js and its modules")
    parser.add_argument("--preview-bench", required=True, help="the program that measures libpq")
    parser.add_argument("--agent-data", required=True, type=Path)
    parser.add_argument("--agent-socket", required=True, type=Path)
    parser.add_argument("--source", required=True, help="conninfo, key=value")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--contenders", default="", help="names, by comma; all by default")
    options = parser.parse_args()

    bench = Bench(options)
    contenders = contenders_of(options)
    rounds: dict[str, list[Figures]] = {}
    try:
        for n in range(options.rounds):
            order = list(contenders)
            order = order[n % len(order):] + order[:n % len(order)]
            for name in order:
                print(f"round {n + 1}: {name}", file=sys.stderr, flush=True)
                rounds.setdefault(name, []).append(bench.turn(contenders[name]))
                if name == OPDATA:
                    rounds.setdefault(LIBPQ, []).append(bench.libpq())
                contenders[name].stop()
    finally:
        for contender in contenders.values():
            contender.stop()

    table = medians(rounds)
    show_table(table)
    print()
    show_goals(table)
    if bench.missed:
        print(f"\nOf {bench.missed} ends the server did not tell the client in time:"
              " their time in the history counts.")


main()
