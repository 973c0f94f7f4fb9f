"""Pydantic models of what the HTTP API takes and answers about attribution graphs.

Place on the path: as schema/, whose rules hold here too.
"""

from __future__ import annotations

from typing import Literal

from monosemy.app.schema import Body, Example, Interval, Wire


class GraphEntry(Wire):
    """A graph of the run."""

    name: str
    """Its folder's name, as in addresses."""
    prompt: str
    written: float
    """When it was written, in seconds since 1970."""
    n_tokens: int
    n_latents: int
    replacement: float | None
    completeness: float | None
    problem: str
    """Why it cannot be read; empty when all is well."""


class GraphList(Wire):
    """`GET /api/graphs`."""

    graphs: list[GraphEntry]


class GraphTranscoder(Wire):
    layer: int
    site: str
    """Of the run, as for `SaeEntry`."""
    name: str
    fvu: float | None
    """The share of the variance of the MLP's outputs on this prompt that it misses."""


class GraphAgreement(Wire):
    """Rank correlation of computed influence and measured effect of ablation, over nodes."""

    rho: float | None
    interval: Interval | None
    n: int


class GraphAgreements(Wire):
    free: GraphAgreement
    """With attention that answers."""
    frozen: GraphAgreement
    """With attention patterns held."""


class GraphNodes(Wire):
    """Columns, one value a node; null where a node has no such thing."""

    kind: list[Literal["latent", "error", "token", "logit"]]
    layer: list[int]
    """−1 for a token; the number of layers for a logit."""
    position: list[int]
    number: list[int]
    """Of a latent in its dictionary, or of a token in the vocabulary; −1 for an error."""
    piece: list[str]
    """The token at the node's position; a logit's own."""
    label: list[str]
    """Of a latent; empty without features."""
    activation: list[float | None]
    influence: list[float | None]
    """The share of all influence on the logits."""
    before: list[float | None]
    """The share of all influence that nodes with more of it carry: a node is kept at a share above that."""
    size: list[float | None]
    """Of a latent or logit: the sum of |effect| over everything that reaches it, in the whole graph."""
    probability: list[float | None]
    """Of a logit."""
    free: list[float | None]
    """Measured: probability-weighted change of the logits without the latent, attention answering."""
    frozen: list[float | None]
    """The same with attention patterns held."""


class GraphLinks(Wire):
    """Columns, one value a link; nodes by their place in GraphNodes."""

    source: list[int]
    target: list[int]
    effect: list[float]
    """Direct effect, in units of the target's pre-activation or logit."""


class GraphPage(Wire):
    """`GET /api/graph/NAME`: the graph as its page prunes and draws it (circuits/graphs/page_data.py)."""

    format: str
    version: int
    name: str
    prompt: str
    model: str
    n_layers: int
    tokens: list[str]
    token_ids: list[int]
    transcoders: list[GraphTranscoder]
    """Those of the run; empty for a graph made with others."""
    with_features: list[int]
    """Layers whose transcoder has features: contexts and labels."""
    bare_layers: list[int]
    """Layers without a transcoder: the whole MLP's output is an error."""
    n_active: int
    """Active latents on the prompt."""
    n_latents: int
    """Those of them that are nodes of the whole graph."""
    replacement: float | None
    completeness: float | None
    node_share: float
    """The pruning that the graph was made with: the least share of influence that nodes carry."""
    edge_share: float
    wide_share: float
    """The share of influence that the nodes here carry: pruning goes up to it."""
    links_share: float
    """The share of influence between these nodes that the links here carry."""
    agreement: GraphAgreements | None
    """Null where nothing was ablated."""
    nodes: GraphNodes
    links: GraphLinks


class GraphContexts(Wire):
    """`GET /api/graph/NAME/contexts/NODE`: the strongest contexts of a latent."""

    examples: list[Example]
    max: float | None
    """Its largest activation on the features' text."""


class GraphEdit(Wire):
    node: int
    """A latent's place in GraphNodes."""
    factor: float
    """What its activation is multiplied by: 0 ablates it."""


class GraphEdits(Body):
    """`POST /api/graph/NAME/edit`: runs the model with these edits."""

    edits: list[GraphEdit]
    frozen: bool = False
    """Whether attention patterns are held as they are on the prompt."""


class GraphTokenChange(Wire):
    id: int
    text: str
    before: float
    """Probability as the next token."""
    after: float
    change: float
    """Of the logit, less the mean change over the vocabulary."""


class GraphIntervention(Wire):
    """The next token with and without the edits."""

    seconds: float
    kl: float
    """From the prediction before to that after, in nats."""
    tokens: list[GraphTokenChange]
    """The graph's logits and the likeliest tokens of both, by the larger probability."""
