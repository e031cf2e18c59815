"""The graph of what was made from what. A node is a content, known by its digest; runs that share
it meet there.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Literal

from rlhf_core.data.splits import SOURCES, SPLITS
from tasks.analysis.run_evidence import RunEvidence, StageEvidence
from tasks.stages.validate import PREPARED

NodeKind = Literal["data", "model"]
MEASURING = ("measured on", "compared with", "scored by")  # what does not change its target
OPINIONS = (
    "independent_scorer",
    "judge",
    "function_",
)  # inputs that begin so are source code, not data or models
MODELS = {
    "prepare": "base model",
    "sft": "SFT model",
    "reward": "reward model",
    "ppo": "policy",
    "dpo": "policy",
}
GIVEN = {
    "base": "base model",
    "given": "given model",
    "champion": "champion",
    "policy": "policy",
    "reward": "reward model",
}
ADAPTER = "reward model's adapter"


@dataclass
class Node:
    """One content. runs: pipeline runs that made it; versions: registered ones, 'quickstart-policy
    3 @champion'.
    """

    digest: str
    kind: NodeKind
    name: str
    stage: str = ""  # that made it; '' for what came from outside
    runs: dict[str, str | None] = field(default_factory=dict)  # run name -> MLflow page
    versions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Edge:
    """source went into target: 'made from', 'trained on', 'starts from', 'trained against', or one
    of MEASURING.
    """

    source: str
    target: str
    role: str


@dataclass
class Graph:
    """Contents and what went into what."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[Edge, None] = field(default_factory=dict)  # in the order found

    def add(self, node: Node, run: RunEvidence) -> None:
        """Add a node, or the run to the one that is there. Runs that made it are named; those that
        used it while none did.
        """
        known = self.nodes.setdefault(node.digest, node)
        if node.stage and not known.stage:
            known.name, known.stage, known.runs = node.name, node.stage, {}
        if bool(node.stage) == bool(known.stage):
            known.runs.setdefault(run.name, run.link)

    def link(self, source: str, target: str, role: str) -> None:
        """Add an edge; one that only measured is left out where the two have another."""
        if source == target or (
            role in MEASURING and any(edge.source == source for edge in self.into(target))
        ):
            return
        self.edges.setdefault(Edge(source, target, role))

    def into(self, digest: str) -> list[Edge]:
        return [edge for edge in self.edges if edge.target == digest]

    def out_of(self, digest: str) -> list[Edge]:
        return [edge for edge in self.edges if edge.source == digest]

    def only(self, digests: Iterable[str]) -> "Graph":
        """The part between these nodes."""
        kept = set(digests)
        edges = {edge: None for edge in self.edges if edge.source in kept and edge.target in kept}
        return Graph({digest: node for digest, node in self.nodes.items() if digest in kept}, edges)

    def as_json(self) -> dict:
        return {
            "nodes": [asdict(node) for node in self.nodes.values()],
            "edges": [asdict(edge) for edge in self.edges],
        }


def build(evidence: Iterable[RunEvidence]) -> Graph:
    """The lineage that these runs record, equal contents being one node."""
    graph = Graph()
    for run in evidence:
        for stage in run.stages.values():
            if stage.stage == "validate":
                _prepared(graph, run, stage)
            _add_stage(graph, run, stage)
    return graph


def _add_stage(graph: Graph, run: RunEvidence, stage: StageEvidence) -> None:
    inputs = {name: item["digest"] for name, item in stage.spec.get("inputs", {}).items()}
    outputs = {name: item["digest"] for name, item in stage.result.get("outputs", {}).items()}
    inputs = {name: digest for name, digest in inputs.items() if not name.startswith(OPINIONS)}
    for name, digest in inputs.items():
        graph.add(_input_node(stage, name, digest), run)
    for name, digest in outputs.items():
        graph.add(_output_node(stage, name, digest), run)
        for source, role in _sources(stage.stage, name, inputs):
            graph.link(inputs[source], digest, role)
    if measured := _measured(stage.stage, inputs, outputs):
        for name, digest in inputs.items():
            if name.endswith("_heldout"):
                graph.link(digest, measured, "measured on")
            elif stage.stage == "evaluate":
                graph.link(
                    digest,
                    measured,
                    "compared with" if name in ("sft", "champion") else "scored by",
                )


def _input_node(stage: StageEvidence, name: str, digest: str) -> Node:
    if name in (*SOURCES, *SPLITS):
        label = f"{name} (file)" if stage.stage == "validate" else name
        return Node(digest, "data", label)
    if name == "model":
        return Node(digest, "model", "SFT model" if stage.stage == "reward" else "base model")
    return Node(digest, "model", ADAPTER if name == "reward_adapter" else GIVEN.get(name, name))


def _output_node(stage: StageEvidence, name: str, digest: str) -> Node:
    if name == "model":
        return Node(digest, "model", MODELS.get(stage.stage, name), stage.stage)
    if name == "adapter":
        return Node(digest, "model", ADAPTER, stage.stage)
    return Node(digest, "data", name, stage.stage)


def _sources(stage: str, output: str, inputs: dict[str, str]) -> list[tuple[str, str]]:
    """The inputs that an output is made of, with their role."""
    if stage == "validate":
        return [(name, "made from") for name in _files_of(output, inputs)]
    if stage == "ppo":
        roles = {
            "policy": "starts from",
            "reward": "trained against",
            "prompts_train": "trained on",
        }
        roles["reward_adapter"] = "trained against"
    else:
        roles = dict.fromkeys(("model", "policy"), "starts from")
        roles |= {name: "trained on" for name in inputs if name.endswith("_train")}
    return [
        (name, role)
        for name, role in roles.items()
        if name in inputs and output in ("model", "adapter")
    ]


def _files_of(split: str, inputs: dict[str, str]) -> list[str]:
    """The source files of a split: its own, or the one it was split off from; prompts may be those
    of the comparisons.
    """
    kind, side = split.rsplit("_", 1)
    own = f"{kind}_heldout" if side == "heldout" and f"{kind}_heldout" in inputs else kind
    if own in inputs:
        return [own]
    return _files_of(f"comparisons_{side}", inputs) if kind == "prompts" else []


def _measured(stage: str, inputs: dict[str, str], outputs: dict[str, str]) -> str | None:
    """The model that a stage's held-out inputs measure."""
    if stage == "evaluate":
        return inputs.get("policy")
    return (
        outputs.get("model") or inputs.get("given") if stage in ("sft", "reward", "dpo") else None
    )


def _prepared(graph: Graph, run: RunEvidence, stage: StageEvidence) -> None:
    """Source files that the prepare stage generated belong to its folder of files."""
    folder = run.stages["prepare"].output("files") if "prepare" in run.stages else None
    for name in SOURCES:
        source = run.recipe.get("data", {}).get(name) or {}
        if folder and stage.input(name) and source.get("path", "").startswith(PREPARED):
            graph.add(Node(stage.input(name), "data", f"{name} (file)", "prepare"), run)
            graph.link(folder, stage.input(name), "made from")


def ancestors(graph: Graph, digest: str) -> Graph:
    """What a content was made from, and what it was measured on; not how those it was only measured
    against were made.
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
    """What a content went into; and each such model: 'trained' (it, or what it was made of, saw the
    content) or 'measured'.

    A model that was only measured hands nothing on.
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
