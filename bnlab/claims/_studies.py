"""By which study a claim is judged, under which preset and on which network."""

from collections.abc import Sequence
from pathlib import Path

from bnlab.claims._base import CLAIMS, Claim
from bnlab.claims._network import OWN, Network
from bnlab.config import flatten, parse_override, shipped
from bnlab.errors import ConfigError
from bnlab.records import StoredStudies
from bnlab.study.file import Plan
from bnlab.study.load import load_plan, stored_layer

PRESETS = ("full", "quick", "smoke")
"""From the strongest evidence to none."""

SHARED = "claims"
"""Folder below runs/ in which all claims share their runs."""


def study_file(name: str) -> Path:
    """A claim's study: its own, or `configs/claims/NAME.yaml` of the checkout or as installed.

    Raises:
        ConfigError: If there is no such claim, or its study is not there.
    """
    own = CLAIMS[name].study
    if isinstance(own, Path):
        return own
    path = shipped("claims", f"{own or name}.yaml")
    if path is None:
        raise ConfigError(
            f"configs/claims/{own or name}.yaml: missing; install bnlab again, or run it from a "
            "whole checkout"
        )
    return path


def stored_study(name: str, preset: str, network: Network = OWN) -> str:
    """Where a claim's study is kept as it was run, below the runs folder."""
    own = CLAIMS[name].study
    scope = preset if network.own else f"{preset}-{network.label}"
    return f"{SHARED}/{own if isinstance(own, str) else name}-{scope}.yaml"


def load_claim_plan(name: str, preset: str, studies: StoredStudies, network: Network = OWN) -> Plan:
    """The study of a claim under one preset, with the images and seeds that it was run with."""
    return load_plan(
        study_file(name),
        name=SHARED,
        preset=preset,
        network=network.layer(preset),
        stored=stored_layer(studies, stored_study(name, preset, network)),
        stored_seeds=True,
    )


def not_asked(claim: Claim, plan: Plan, network: Network) -> str:
    """Why a claim means nothing on a network, in words; "" if it does."""
    gone = [arm for arm in (*claim.arms, *claim.needs) if arm not in plan.spec.arms]
    if not gone:
        return ""
    told = f"arm {gone[0]} differs" if len(gone) == 1 else f"arms {', '.join(gone)} differ"
    return f"cannot be asked of {network.label}: there its {told} in nothing from others"


MAY_BE_SET = ("dataset.name", "dataset.root")
"""Where the images lie; everything else is the claim's protocol."""


def refuse_bending(overrides: Sequence[str]) -> None:
    """Hold a claim to its protocol.

    Raises:
        ConfigError: If an override sets more than where the images lie.
    """
    for text in overrides:
        for key in flatten(parse_override(text).tree):
            if key not in MAY_BE_SET:
                raise ConfigError(
                    f"--set {text}: a claim's protocol is fixed beforehand; only "
                    f"{' and '.join(MAY_BE_SET)} may be set (for other settings: bnlab study run)"
                )
