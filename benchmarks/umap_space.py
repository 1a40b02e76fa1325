"""UMAP beside PCA (arXiv 2505.18366, Table 6): the ensemble's vectors reduced by UMAP, as an encoder made elsewhere.

    pip install umap-learn
    python benchmarks/umap_space.py --data DIR --out VECTORS [--width 64] [--set 'encoders=[…]']
    hnmine compare --data DIR --out OUT --arms two-conditions --set reduce.variance=null \
        --set 'encoders=[{name: umap, precomputed: VECTORS}]'

UMAP is fitted on the documents with the cosine distance, and queries are put into what it made of them. It keeps who is
near to whom, not how far apart they are, and it is drawn: another seed is another space.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.config.load import load
from hnmine.embedding.ensemble import encode
from hnmine.pipeline import read_collection
from hnmine.runs.folder import open_run
from hnmine.types import Float32, Role, Texts


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
    with open_run(options.out / "run", config) as run:
        collection = read_collection(options.data, config, run)
        texts: dict[Role, Texts] = {"document": collection.documents, "query": collection.queries}
        space = encode(texts, config, run).space
    began = time.monotonic()
    settings = {"n_components": options.width, "n_neighbors": options.neighbours, "metric": "cosine"}
    reducer = umap.UMAP(**settings, random_state=0, low_memory=True)
    documents = reducer.fit_transform(space.docs_NR)
    print(f"{space.docs_NR.shape} → {documents.shape} in {time.monotonic() - began:.0f} s", flush=True)
    centre = documents.mean(0)  # its map has no origin, and cosines need one
    write(options.out / "documents.parquet", collection.documents, documents - centre)
    write(options.out / "queries.parquet", collection.queries, reducer.transform(space.queries_QR) - centre)


def write(path: Path, texts: Texts, vectors_nR: Float32) -> None:
    """Write vectors as a precomputed encoder has them."""
    rows = np.asarray(vectors_nR, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    pq.write_table(pa.table({"id": list(texts.ids), "vector": column}), path)


if __name__ == "__main__":
    main()
