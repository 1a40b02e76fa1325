"""UMAP beside PCA (arXiv 2505.18366, Table 6): the ensemble's vectors reduced by UMAP, as an encoder made elsewhere.

    pip install umap-learn
    python benchmarks/umap_space.py --data DIR --out VECTORS [--width 64] [--set 'encoders=[…]']
    hnmine compare --data DIR --out OUT --arms two-conditions --set reduce.variance=null \
        --set 'encoders=[{name: umap, precomputed: VECTORS}]'

UMAP is fitted on the documents with the cosine distance; queries are then placed on its map. The map keeps who is near
to whom, not how far apart they are, and depends on the seed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.config.load import load
from hnmine.mining.pca import project_space
from hnmine.project import open_project
from hnmine.types import Float32, Texts


def main() -> None:
    """Encode what the store lacks, reduce it, and write both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the vectors")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--neighbours", type=int, default=15, help="UMAP's n_neighbors")
    parser.add_argument("--set", action="append", default=[], help="as of hnmine")
    options = parser.parse_args()
    import umap

    config = load(overrides=[*options.set, "reduce.variance=null"])
    with open_project(options.data, options.out / "run", config) as project:
        documents, queries = project.collection.documents, project.collection.queries
        space = project_space(project.fuse(queries), basis=None)
    began = time.monotonic()
    settings = {"n_components": options.width, "n_neighbors": options.neighbours, "metric": "cosine"}
    reducer = umap.UMAP(**settings, random_state=0, low_memory=True)
    mapped = reducer.fit_transform(space.docs_NR)
    print(f"{space.docs_NR.shape} → {mapped.shape} in {time.monotonic() - began:.0f} s", flush=True)
    centre = mapped.mean(0)  # cosines need an origin, and the map of UMAP has none
    write(options.out / "documents.parquet", documents, mapped - centre)
    write(options.out / "queries.parquet", queries, reducer.transform(space.queries_QR) - centre)


def write(path: Path, texts: Texts, vectors_nR: Float32) -> None:
    """Write vectors as a precomputed encoder has them."""
    rows = np.asarray(vectors_nR, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    pq.write_table(pa.table({"id": list(texts.ids), "vector": column}), path)


if __name__ == "__main__":
    main()
