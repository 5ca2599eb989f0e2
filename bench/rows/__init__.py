"""The rows of `bench`, by what they measure."""

from bench.result import Row
from bench.rows import detection, engine, ingest, machine, scale, sweep

ROWS: tuple[Row, ...] = (*ingest.ROWS, *scale.ROWS, *sweep.ROWS, *detection.ROWS, *engine.ROWS, *machine.ROWS)
