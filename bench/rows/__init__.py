"""The rows of `bench`, by what they measure."""

from bench.result import Row
from bench.rows import engine, ingest, machine, sweep

ROWS: tuple[Row, ...] = (*ingest.ROWS, *sweep.ROWS, *engine.ROWS, *machine.ROWS)
