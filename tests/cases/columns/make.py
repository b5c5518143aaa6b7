"""Makes the files beside it: the same three rows as Parquet, as an Arrow file and as an Arrow stream.

Needs pyarrow (26.0.1 made the files that are here).
"""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

folder = pathlib.Path(__file__).parent
table = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int32()),
        "meta": pa.array([{"body": "She was there."}, {"body": "He was not."}, {"body": "They were, é."}]),
    }
)
pq.write_table(table, folder / "three.parquet", compression="zstd")
with pa.ipc.new_file(folder / "file.arrow", table.schema) as writer:
    writer.write_table(table)
with pa.ipc.new_stream(folder / "stream.arrow", table.schema) as writer:
    writer.write_table(table)
