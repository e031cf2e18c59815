"""The lineage graph: what was made from what.

A node is one content, identified by its digest. Runs that share the content share the node.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from rlhf_core.config.data.section import NEW_COMPARISONS
from rlhf_core.data.sources.hub import hub_sources
from rlhf_core.data.splits import SPLITS, is_new, is_source, sources_of
from rlhf_core.stage_catalogue import EVALUATE, PPO, PREPARE, REWARD, SFT, STAGES, UNSEEN, VALIDATE
from tasks.analysis.run_evidence import RunEvidence, StageEvidence
from tasks.stages.validate import PREPARED

NodeKind = Literal["data", "model"]
Maker = tuple[str, str | None]  # a run's name, and its page in MLflow
MEASURING = ("measured on", "compared with", "scored by")  # roles that do not change the target
CODE = ("independent_scorer", "judge", "function_", "reader_")  # prefixes of source code
MODELS = {name: stage.makes for name, stage in STAGES.items() if stage.makes}
GIVEN = {
    "base": "base model",
    "given": "given model",
    "champion": "champion",
    "policy": "policy",
    "reward": "reward model",
    "start": "reward model",
    "before": "reward model",
}
ADAPTER = "reward model's adapter"


@dataclass
class Node:
    """One content: a model or data."""

    digest: str
    kind: NodeKind
    name: str
    stage: str = ""  # the stage that made it; '' when none of the known runs did
    runs: dict[str, str | None] = field(default_factory=dict)  # run name -> MLflow page
    versions: list[str] = field(default_factory=list)  # 'quickstart-policy 3 @champion'


@dataclass(frozen=True)
class Edge:
    """The use of one content, the source, in making or measuring another, the target."""

    source: str
    target: str
    role: str  # 'made from', 'trained on', 'starts from', 'trained against' or one of MEASURING


@dataclass
class Graph:
    """Contents as nodes, their uses as edges."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[Edge, None] = field(default_factory=dict)  # in the order found

    def add(self, node: Node, run: Maker) -> None:
        """Add a node, or add the run to the node of that digest. run: its name and its page.

        A node names the runs that made it; when none did, those that used it.
        """
        known = self.nodes.setdefault(node.digest, node)
        if node.stage and not known.stage:
            known.name, known.stage, known.runs = node.name, node.stage, {}
        if bool(node.stage) == bool(known.stage):
            known.runs.setdefault(*run)

    def link(self, source: str, target: str, role: str) -> None:
        """Add an edge. An edge that only measured is left out where the two nodes have another."""
        if source == target or (
            role in MEASURING and any(edge.source == source for edge in self.into(target))
        ):
            return
        self.edges.setdefault(Edge(source, target, role))

    def into(self, digest: str) -> list[Edge]:
        """Return the edges that end at a node."""
        return [edge for edge in self.edges if edge.target == digest]

    def out_of(self, digest: str) -> list[Edge]:
        """Return the edges that begin at a node."""
        return [edge for edge in self.edges if edge.source == digest]

    def only(self, digests: Iterable[str]) -> "Graph":
        """Return the subgraph of these nodes."""
        kept = set(digests)
        edges = {edge: None for edge in self.edges if edge.source in kept and edge.target in kept}
        return Graph({digest: node for digest, node in self.nodes.items() if digest in kept}, edges)

    def as_json(self) -> dict:
        """Return nodes and edges as JSON values."""
        return {
            "nodes": [asdict(node) for node in self.nodes.values()],
            "edges": [asdict(edge) for edge in self.edges],
        }


def build(evidence: Iterable[RunEvidence], makers: Mapping[str, Maker] | None = None) -> Graph:
    """Return the lineage that these runs recorded; equal contents are one node.

    makers: of stages that took the result of an earlier run, by the digest of their spec.
    """
    graph = Graph()
    for run in evidence:
        made_by = {
            name: (makers or {}).get(stage.digest, (run.name, run.link))
            for name, stage in run.stages.items()
        }
        for name, stage in run.stages.items():
            if stage.stage == VALIDATE.name and PREPARE.name in run.stages:
                _link_prepared_files(graph, run, made_by[PREPARE.name])
            _add_stage(graph, run, stage, made_by[name])
    return graph


def _add_stage(graph: Graph, run: RunEvidence, stage: StageEvidence, made_by: Maker) -> None:
    outputs = {name: item["digest"] for name, item in stage.result.get("outputs", {}).items()}
    inputs = {n: digest for n, digest in stage.inputs.items() if not n.startswith(CODE)}
    for name, digest in inputs.items():
        graph.add(_input_node(stage, name, digest), (run.name, run.link))
    for name, digest in outputs.items():
        graph.add(_output_node(stage, name, digest), made_by)
        for source, role in _sources(stage.stage, name, inputs):
            graph.link(inputs[source], digest, role)
    if measured := _measured(stage.stage, inputs, outputs):
        for name, digest in inputs.items():
            if name.endswith("_heldout"):
                graph.link(digest, measured, "measured on")
            elif name == "before":
                graph.link(digest, measured, "compared with")
            elif stage.stage == EVALUATE.name:
                graph.link(
                    digest,
                    measured,
                    "compared with" if name in ("sft", "champion") else "scored by",
                )


def _input_node(stage: StageEvidence, name: str, digest: str) -> Node:
    if is_source(name) or name.removesuffix(UNSEEN) in SPLITS:
        source = hub_sources(stage.config).get(name)
        place = f" ({source['path'] if source else 'file'})" if stage.stage == VALIDATE.name else ""
        label = f"{name}{place}"
        return Node(digest, "data", label)
    if name == "model":
        return Node(digest, "model", SFT.makes if stage.stage == REWARD.name else PREPARE.makes)
    return Node(digest, "model", ADAPTER if name == "reward_adapter" else GIVEN.get(name, name))


def _output_node(stage: StageEvidence, name: str, digest: str) -> Node:
    if name == "model":
        return Node(digest, "model", MODELS.get(stage.stage, name), stage.stage)
    if name == "adapter":
        return Node(digest, "model", ADAPTER, stage.stage)
    return Node(digest, "data", name, stage.stage)


def _sources(stage: str, output: str, inputs: dict[str, str]) -> list[tuple[str, str]]:
    """Return the inputs that an output is made from, with their role."""
    if stage == VALIDATE.name:
        return [(name, "made from") for name in _files_of(output, inputs)]
    if stage == PPO.name:
        roles = {
            "policy": "starts from",
            "reward": "trained against",
            "prompts_train": "trained on",
        }
        roles["reward_adapter"] = "trained against"
    else:
        first = ("start",) if "start" in inputs else ("model", "policy")
        roles = dict.fromkeys(first, "starts from")
        roles |= {name: "trained on" for name in inputs if name.endswith("_train")}
    return [
        (name, role)
        for name, role in roles.items()
        if name in inputs and output in ("model", "adapter")
    ]


def _files_of(split: str, inputs: dict[str, str]) -> list[str]:
    """Return the source file of a split: its own, or the one that it was split off from.

    Prompts without a file of their own come from the comparisons, or else from the feedback.
    """
    kind, side = split.rsplit("_", 1)
    if kind == NEW_COMPARISONS:
        return [name for name in inputs if is_new(name)]
    own = f"{kind}_heldout" if side == "heldout" and f"{kind}_heldout" in inputs else kind
    if own in inputs:
        return [own]
    if kind != "prompts":
        return []
    return _files_of(f"comparisons_{side}", inputs) or _files_of(f"feedback_{side}", inputs)


def _measured(stage: str, inputs: dict[str, str], outputs: dict[str, str]) -> str | None:
    """Return the model that a stage's held-out inputs measure; None when it measures none."""
    known = STAGES.get(stage)
    if known is None or not known.heldout:
        return None
    return outputs.get("model") or inputs.get("given") if known.makes else inputs.get("policy")


def _link_prepared_files(graph: Graph, run: RunEvidence, made_by: Maker) -> None:
    """Link source files that the prepare stage generated to its folder of files."""
    folder = run.stages[PREPARE.name].output("files")
    for name, source in sources_of(run.recipe.get("data", {})).items():
        digest = run.stages[VALIDATE.name].input(name)
        if folder and digest and source.get("path", "").startswith(PREPARED):
            graph.add(Node(digest, "data", f"{name} (file)", PREPARE.name), made_by)
            graph.link(folder, digest, "made from")


def ancestors(graph: Graph, digest: str) -> Graph:
    """Return what a content was made from and what it was measured on.

    Models that it was only compared with or scored by are included without their own sources.
    """
    kept, queue = {digest}, [digest]
    while queue:
        for edge in graph.into(queue.pop()):
            if edge.source not in kept:
                kept.add(edge.source)
                if edge.role not in MEASURING or graph.nodes[edge.source].kind == "data":
                    queue.append(edge.source)
    return graph.only(kept)


def descendants(graph: Graph, digest: str) -> tuple[Graph, dict[str, str]]:
    """Return what a content went into, and how each such model saw it.

    'trained': the model, or one that it was made from, was trained on the content. 'measured': it
    was only measured on it; its own descendants are left out.
    """
    saw: dict[str, str] = {digest: "trained"}
    queue = [digest]
    while queue:
        for edge in graph.out_of(queue.pop()):
            if edge.role in MEASURING:
                saw.setdefault(edge.target, "measured")
            elif saw.get(edge.target) != "trained":
                saw[edge.target] = "trained"
                queue.append(edge.target)
    models = {
        name: how
        for name, how in saw.items()
        if graph.nodes[name].kind == "model" and name != digest
    }
    return graph.only(saw), models
