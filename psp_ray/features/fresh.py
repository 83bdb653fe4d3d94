"""`views: fresh`: views encoded anew each round, without the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from psp_ray.core.errors import DatasetError
from psp_ray.core.records import Float16Array, Int64Array
from psp_ray.core.words import counted
from psp_ray.data.images import ViewSettings
from psp_ray.features.encoder import TASK_SCHEMA, ChunkEncoder, ChunkTask
from psp_ray.features.segments import HashArray


@dataclass
class FreshViews:
    """Encodes views of pool positions for one round.

    The noise depends on (view seed, content hash, view index, round) alone. Call it block by block (or in other pieces
    that are the same on any number of workers): batches of the tower are formed within a call.
    """

    manifest: pa.Table
    """The pool's rows (`FeaturizedDataset.dataset.pool`)."""
    hashes: HashArray
    """Their content hashes (n, 16)."""
    settings: ViewSettings

    def encode(self, encoder: ChunkEncoder, positions: Int64Array, round: int) -> Float16Array:
        """Views (k, L, d) float16 of `positions`, in the order asked for. `round` counts from 1; 0 gives the
        cached views.

        Raises:
            DatasetError: a file that could be read when the pool was featurized has gone or changed.
        """
        if round < 0:
            raise ValueError("rounds count from 1; round 0 is that of the cached views")
        rows = np.asarray(positions, np.int64)
        part = self.manifest.take(pa.array(rows))
        count = len(rows)
        images = pa.table(
            {
                "content_hash": [row.tobytes() for row in self.hashes[rows]],
                "path": part["path"],
                "image": part["image"],
                "center": np.zeros(count, bool),
                "views": np.ones(count, bool),
            },
            schema=TASK_SCHEMA,
        )
        result = encoder.encode_chunk(ChunkTask(0, images, self.settings, round))
        if result.broken:
            digest, reason = result.broken[0]
            first = next(i for i, row in enumerate(self.hashes[rows]) if row.tobytes().hex() == digest)
            raise DatasetError(
                f"{counted(len(result.broken), 'pool image')} can't be read any more (the first: "
                f"{part['sample_id'][first].as_py()}, {reason}); restore them or use --views cached"
            )
        width = result.views.shape[1] // self.settings.count
        return result.views.reshape(count, self.settings.count, width)
