"""``ARTIFACTS``: the artifact that each stage writes, in the order of the stages."""

from segline.artifacts.artifact import Artifact
from segline.artifacts.candidates import CANDIDATES
from segline.artifacts.dataset import DATASET
from segline.artifacts.ensemble import ENSEMBLE
from segline.artifacts.evaluation import EVALUATION
from segline.artifacts.manifest import MANIFEST
from segline.artifacts.promotion import PROMOTION
from segline.artifacts.validation import VALIDATION

ARTIFACTS: dict[str, Artifact] = {
    artifact.stage: artifact
    for artifact in (MANIFEST, VALIDATION, DATASET, CANDIDATES, EVALUATION, ENSEMBLE, PROMOTION)
}
