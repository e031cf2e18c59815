"""Labels that come as a file: the second door beside MLflow's queues."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf_core.labels.formats import read_votes
from rlhf_core.labels.outcome import LabelledData, Weighting, labelled_data
from rlhf_core.rundir import Artifact
from tasks.labels.files import names_in_data, publish, require_alpha, require_out, written_files
from tasks.records.workspace import Workspace


@dataclass(frozen=True)
class ImportOptions:
    """The options by which votes in a file become comparisons.

    columns: the file's names of the columns, by those of this project. min_alpha: the least lower
    end of alpha's interval. real_names: annotators keep their names in the data.
    """

    out: Path
    columns: Mapping[str, str]
    min_alpha: float | None = None
    weighting: Weighting = "none"
    real_names: bool = False


def import_votes(file: Path, options: ImportOptions, workspace: Workspace) -> LabelledData:
    """Write the comparisons that the votes in a file come to, and return all that was written.

    Raises BadInput for a file that cannot be read or an `out` that exists, GateRefused for
    annotators who agree less than `min_alpha`.
    """
    require_out(options.out)
    found = read_votes(file, options.columns)
    annotators = dict.fromkeys(vote.annotator for vote in found.votes)
    names = names_in_data(workspace, annotators, real=options.real_names)
    data = labelled_data(found.pairs, found.votes, names, file.stem, options.weighting)
    require_alpha(str(file), data.report.alpha, options.min_alpha)
    provenance = {
        "campaign": file.stem,
        "file": str(file),
        "file_digest": Artifact.of(file).digest,
        "authorship": "file",  # whoever wrote the file said who voted
        "weighting": options.weighting,
        "annotators": sorted(names.values()),
    }
    publish(written_files(data, provenance), options.out)
    return data
