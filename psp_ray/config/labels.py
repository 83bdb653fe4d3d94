"""Settings of the rounds and of the labels that they buy."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from psp_ray.config.base import Settings


class LabelSettings(Settings):
    """How many labels in how many rounds, who answers, what it may cost, and when it is enough."""

    rounds: int = Field(8, ge=1, description="how often images are chosen, labeled and learned from")
    labels_per_round: Annotated[int, Field(ge=1)] | Literal["pool"] | None = Field(
        None, description="images to label in a round, or pool: all there are; default: the number of classes"
    )
    stop: str | None = Field(
        None,
        description="end early: enough (little more to gain), target:0.9 (accuracy reached), stable, gain:POINTS a "
        "label, or several; none",
    )
    estimate_folds: int | None = Field(
        None,
        ge=0,
        description="at most one label in so many is left out at a time to judge the prompts; 0: don't; default: 10 "
        "without a test set, else 0",
    )
    oracle: str = Field(
        "ground-truth",
        description="who labels: ground-truth (the data set's own labels), people (in the browser: `psp-ray label`), "
        "file (people, by query.csv), shared (the cluster's --oracle-name), simulated, or an annotator of yours",
    )
    label_wait: float = Field(
        0.0,
        ge=0,
        description="with --oracle people: seconds to wait for answers that are given on the ledger's page "
        "(`psp-ray oracle page`) before the run ends with exit code 3; 0: end at once",
    )
    suggest_labels: bool = Field(False, description="show the predicted class in query.csv (it may bias people)")
    ledger: str | None = Field(
        None,
        description="label ledger: a SQLite file or a database URL; default: PSP_RAY_LEDGER, else in the output folder",
    )
    oracle_name: str = Field("default", description="name of a shared oracle; see `psp-ray oracle start`")
    annotators: str | None = Field(
        None, description="YAML file of simulated annotators with costs and mistakes; default: the true labels"
    )
    cost_cap: float | None = Field(None, ge=0, description="refuse labels worth more than this, bought or reused")
    label_cap: int | None = Field(None, ge=1, description="refuse to use more labels than this, bought or reused")

    @field_validator("labels_per_round", mode="before")
    @classmethod
    def _number_or_pool(cls, value: Any) -> Any:
        if value is not None and value != "pool" and not (str(value).isdecimal() and int(value) > 0):
            raise ValueError("give a number of at least 1, or pool")
        return value
