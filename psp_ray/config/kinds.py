"""The registries of what settings choose by name, and the type of such settings.

A registry is declared here, on the ground, with the name of the package that holds its entries; they are imported when
somebody asks. So a setting can be checked against what there is, also where that is a file somebody just added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from psp_ray.core.registry import Registry

if TYPE_CHECKING:
    from psp_ray.learn.heads import Head
    from psp_ray.policy.alignment import Alignment
    from psp_ray.policy.indicator import Indicator
    from psp_ray.policy.prior import Prior
    from psp_ray.policy.reward import Worth
    from psp_ray.run.stops import Stop
    from psp_ray.selftrain.source import PseudoSource

ALIGNMENTS: Registry[type[Alignment]] = Registry("alignment", "psp_ray.policy.alignments", option="--align")
HEADS: Registry[Head] = Registry("head", "psp_ray.learn.heads", option="--head")
INDICATORS: Registry[type[Indicator]] = Registry("indicator", "psp_ray.policy.indicators", option="--ms")
PRIORS: Registry[type[Prior]] = Registry("prior", "psp_ray.policy.priors", option="--prior")
REWARDS: Registry[Worth] = Registry("reward", "psp_ray.policy.rewards", option="--reward-gap")
STOPS: Registry[type[Stop]] = Registry("stopping rule", "psp_ray.run.stops", option="--stop")
PSEUDO_SOURCES: Registry[type[PseudoSource]] = Registry(
    "source of pseudo-labels", "psp_ray.selftrain.sources", option="--pseudo-source"
)


class OneOf:
    """Annotation of a setting whose value is a name of a registry: `Annotated[str, OneOf(REWARDS)]`."""

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def _known(self, name: str) -> str:
        if name not in self.registry:
            raise ValueError(self.registry.unknown(name).removeprefix(f"{self.registry.option} {name}: "))
        return name


def registry_of(info: FieldInfo) -> Registry[Any] | None:
    """The registry that a setting's value is a name of, or None."""
    return next((item.registry for item in info.metadata if isinstance(item, OneOf)), None)
