"""Named ensembles of encoders.

Every hub model is pinned to a commit and says both prompts, an empty one too, so that a preset means the same tomorrow.
The document side of a pair of prompts is empty unless the model card asks for one.

    paper                         the six of arXiv 2505.18366, Table 7, 12,800 dimensions; jina-v3 among them is
                                    under CC BY-NC 4.0, for non-commercial use only, and needs hnmine[adapters]
    en-, zh-, multilingual-small  one model by language and size, as RAGatouille's SimpleMiner chooses them;
      -base, -large                 also fr-base, fr-large
    minilm+lexical                the default
"""

from __future__ import annotations

from typing import Any, Final

from hnmine.config.models import EncoderConfig, LexicalConfig
from hnmine.errors import ConfigError

_SEARCH_QUERY = "Represent this sentence for searching relevant passages: "  # of bge v1.5 and mxbai alike


LICENCES: Final = {"jinaai/jina-embeddings-v3-hf": "CC BY-NC 4.0: for non-commercial use only"}
"""Of hub models that not everybody may use; said whenever one is."""


def _encoder(
    name: str,
    model: str,
    commit: str,
    query: str = "",
    document: str = "",
    max_tokens: int | None = 512,
    **more: Any,
) -> EncoderConfig:
    return EncoderConfig(
        name=name,
        model=f"{model}@{commit}",
        query_prompt=query,
        document_prompt=document,
        max_tokens=max_tokens,
        **more,
    )


def _bge(size: str, commit: str) -> EncoderConfig:
    return _encoder(f"bge-{size}", f"BAAI/bge-{size}-en-v1.5", commit, query=_SEARCH_QUERY)


def _gte_zh(size: str, commit: str) -> EncoderConfig:
    return _encoder(f"gte-{size}-zh", f"thenlper/gte-{size}-zh", commit)


def _solon(size: str, commit: str) -> EncoderConfig:
    return _encoder(f"solon-{size}", f"OrdalieTech/Solon-embeddings-{size}-0.1", commit, query="query : ")


def _e5(size: str, commit: str) -> EncoderConfig:
    return _encoder(f"e5-{size}", f"intfloat/multilingual-e5-{size}", commit, query="query: ", document="passage: ")


_BGE_LARGE = _bge("large", "d4aa6901d3a41ba39fb536a557fa166f842b0e09")

DEFAULT: Final = "minilm+lexical"
PRESETS: Final[dict[str, tuple[EncoderConfig, ...]]] = {
    "paper": (
        _encoder(
            "stella",
            "NovaSearch/stella_en_400M_v5",
            "ffeb2b7ee715c226d4ffe5e4619f7dbb48624c20",
            query="Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: ",
            dense_head=8192,
        ),
        # The maker's own conversion of jinaai/jina-embeddings-v3: needs no remote code, which fails in transformers 5.
        _encoder(
            "jina-v3",
            "jinaai/jina-embeddings-v3-hf",
            "d18862d9a48706220815554fac3ebb4dfa46fc28",
            query="Represent the query for retrieving evidence documents: ",
            document="Represent the document for retrieval: ",
            max_tokens=None,
            query_adapter="retrieval_query",
            document_adapter="retrieval_passage",
        ),
        _encoder(
            "mxbai",
            "mixedbread-ai/mxbai-embed-large-v1",
            "990580e27d329c7408b3741ecff85876e128e203",
            query=_SEARCH_QUERY,
        ),
        _BGE_LARGE,
        _encoder(
            "labse",
            "sentence-transformers/LaBSE",
            "836121a0533e5664b21c7aacc5d22951f2b8b25b",
            max_tokens=256,
        ),
        _encoder(
            "mpnet",
            "sentence-transformers/all-mpnet-base-v2",
            "9a3225965996d404b775526de6dbfe85d3368642",
            max_tokens=384,
        ),
    ),
    "en-small": (_bge("small", "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a"),),
    "en-base": (_bge("base", "a5beb1e3e68b9ab74eb54cfd186867f64f240e1a"),),
    "en-large": (_BGE_LARGE,),
    "zh-small": (_gte_zh("small", "af7bd46fbb00b3a6963c8dd7f1786ddfbfbe973a"),),
    "zh-base": (_gte_zh("base", "71ab7947d6fac5b64aa299e6e40e6c2b2e85976c"),),
    "zh-large": (_gte_zh("large", "64c364e579de308104a9b2c170ca009502f4f545"),),
    "fr-base": (_solon("base", "d9cfe58bd70941b8642f2b97c5949041dc829d08"),),
    "fr-large": (_solon("large", "9f6465f6ea2f6d10c6294bc15d84edf87d47cdef"),),
    "multilingual-small": (_e5("small", "fd1525a9fd15316a2d503bf26ab031a61d056e98"),),
    "multilingual-base": (_e5("base", "d13f1b27baf31030b7fd040960d60d909913633f"),),
    "multilingual-large": (_e5("large", "ab10c1a7f42e74530fe7ae5be82e6d4f11a719eb"),),
    DEFAULT: (
        EncoderConfig(name="minilm", model="all-MiniLM-L6-v2"),
        EncoderConfig(name="lexical", lexical=LexicalConfig()),
    ),
}


def preset(name: str) -> tuple[EncoderConfig, ...]:
    """Return the encoders of a preset.

    Raises:
        ConfigError: there is no such preset; the message names those there are.
    """
    if name not in PRESETS:
        raise ConfigError(f"encoders: unknown preset {name!r}; known presets: {', '.join(PRESETS)}")
    return PRESETS[name]
