"""What the files of a run hold, typed: whatever does not fit is named where it is read.

Records of the first edition lack what was not recorded then (`code`, `runs_at_once`); such fields
are None or empty, and mean "not recorded".
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SCHEMA_VERSION = 1

Status: TypeAlias = Literal["running", "done", "diverged", "failed", "preempted"]

Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
Number: TypeAlias = Annotated[float, Field(ge=-1e100, le=1e100)]
"""A measurement; fp32 has none beyond 1e39, and squares of these stay finite."""

Value: TypeAlias = Number | None
"""A measurement; None where it was not a finite number."""


class Record(BaseModel):
    """Part of a record; keys that this bnlab does not know are kept, for a newer one wrote them."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class Images(Record):
    """`dataset` of run.json: the images that were trained and measured on."""

    name: str = "unknown"
    checksum: str | None = None
    classes: tuple[str, ...] = ()
    train_images: Count = 0
    val_images: Count = 0
    test_images: Count = 0
    val_indices_hash: str | None = None
    note: str = ""


class Commit(Record):
    """`git` of run.json: the commit of bnlab's checkout, if it was one."""

    sha: str | None = None
    dirty: bool = False


class Environment(Record):
    """`environment` of run.json: versions and hardware."""

    python: str | None = None
    torch: str | None = None
    cpu: str | None = None
    gpu: str | None = None
    threads: Count | None = None


class Attempt(Record):
    """One process that trained at a run."""

    started: str = ""
    threads: Count | None = None
    """CPU threads of torch: another number adds up in another order, and gives other last bits."""
    torch: str | None = None
    """Its version."""


class Beginning(Record):
    """`extended_from` of run.json: the finished run that a longer one went on from."""

    run: str
    """Its directory then."""
    epochs: Count
    config_hash: str


class Seeds(Record):
    """`seeds` of run.json."""

    run: Count = 0


class RunFacts(Record):
    """run.json: status, attempts and provenance."""

    schema_version: Count
    status: Status
    arm: str = ""
    config_hash: str | None = None
    seeds: Seeds = Seeds()
    init_hash: str | None = None
    data_order_hash: str | None = None
    parameters: Count | None = None
    dataset: Images = Images()
    device: str = "unknown"
    precision: str = "unknown"
    git: Commit = Commit()
    code: Mapping[str, str] = Field(default_factory=dict)
    """Fingerprint of every source file that training went through, by its path in the package."""
    environment: Environment = Environment()
    deterministic: bool = False
    runs_at_once: Count | None = None
    """Runs that shared the device, this one included."""
    attempts: tuple[Attempt, ...] = ()
    """Of a run that was extended, those of its beginning too."""
    extended_from: Beginning | None = None
    error: str | None = None
    wall_seconds: Number | None = None


class Summary(Record):
    """summary.json: the result, written last.

    Attributes:
        scores: Final values by tag (`test/accuracy`), which stand beside the other keys in the
            file; accuracies are fractions.
    """

    status: Literal["done", "diverged"]
    arm: str = ""
    seed: Count | None = None
    config_hash: str | None = None
    epochs: Count = 0
    scores: Mapping[str, Value] = Field(default_factory=dict)
    train_seconds: Number | None = None
    wall_seconds: Number | None = None
    images_per_second: Number | None = None

    def as_data(self) -> dict[str, Any]:
        """The keys as they stand in the file, scores among the others."""
        data = self.model_dump(mode="json", exclude_unset=True)
        return {**data, **data.pop("scores")}

    @field_validator("scores")
    @classmethod
    def _accuracies_are_fractions(cls, scores: Mapping[str, Value]) -> Mapping[str, Value]:
        for tag, value in scores.items():
            if tag.endswith("accuracy") and value is not None and not 0 <= value <= 1:
                raise ValueError(f"{tag} is {value:g}, which is no fraction")
        return scores

    @model_validator(mode="before")
    @classmethod
    def _gather_scores(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        plain = {key: value for key, value in data.items() if "/" not in key}
        return {**plain, "scores": {key: data[key] for key in data if key not in plain}}
