"""Do small SGD batches cost batch normalization more than a norm without a batch?"""

from collections.abc import Mapping

from bnlab.claims._base import (
    CLAIMS,
    Claim,
    Imagined,
    best_lrs,
    divergences,
)
from bnlab.claims._contrast import (
    Array,
    Contrast,
    Evidence,
    detail,
    make_contrast,
)

FEW = "4"
"""Images a step, the level of the factor `steps`."""


def measure(evidence: Evidence) -> Contrast:
    """What steps of 4 images cost BN less what they cost group norm."""
    best = evidence.best
    batch, group = (evidence.arms("steps", norm=norm) for norm in ("batch", "group"))
    whole = next(iter(batch))
    cost = {
        steps: (best[batch[whole]] - best[batch[steps]], best[group[whole]] - best[group[steps]])
        for steps in batch
        if steps != whole
    }
    with_bn, with_group = cost.pop(FEW)
    return make_contrast(
        with_bn - with_group,
        [
            detail(f"steps of {whole} - of {FEW}, batch norm", with_bn),
            detail(f"steps of {whole} - of {FEW}, group norm", with_group),
            detail(f"batch - group norm, steps of {whole}", best["batch"] - best["group"]),
            detail(
                f"batch - group norm, steps of {FEW}", best[f"batch_{FEW}"] - best[f"group_{FEW}"]
            ),
            *(
                detail(f"the headline, steps of {n}", one - other)
                for n, (one, other) in cost.items()
            ),
        ],
        [best_lrs(evidence), *divergences(evidence)],
    )


def imagine(run: Imagined) -> Mapping[str, float | Array]:
    """Small steps gain every norm 5 points, BN less than that by the effect."""
    few, batch = run.levels["steps"] == FEW, run.levels["norm"] == "batch"
    return run.reach(0.5 + 0.05 * few + 0.02 * batch - run.effect * (few and batch))


CLAIMS.register("small_steps")(
    Claim(
        name="small_steps",
        statement="Batch normalization depends on the batch size: with few images a step it loses "
        "more than a norm that needs no batch.",
        against="Steps of 4 images that cost batch norm no more than they cost group norm.",
        quote=("003", "批量大小的选择对批量归一化的效果有影响"),
        sources=(
            "document 003",
            "Wu and He 2018, arXiv:1803.08494 (group norm; batches of 2 to 32)",
        ),
        definition="How much better batch norm does than group norm at SGD batches of 128, less "
        "how much better it does at SGD batches of 4: what small batches cost whatever the norm "
        "drops out. Test accuracy by running statistics, as the networks are used; each of the "
        "four at its best learning rate.",
        formula="[accuracy(batch, 128) - (group, 128)] - [(batch, 4) - (group, 4)], mean over "
        "seeds",
        protocol="Four arms of width 16, batch and group norm with 128 and 4 images a step, for as "
        "many epochs. Pilot seeds find for each the neighborhood of its best learning rate; every "
        "final seed then tunes for itself within it, on validation images, trains once more on all "
        "images at what was best for it, and reads the test set once. Under full also 16 images a "
        "step, at its pilots' best.",
        smallest_effect=0.01,
        reason="One percentage point: less would make nobody change the norm for the batch.",
        unit="pp",
        treated=("batch", "group_4"),
        control=("batch_4", "group"),
        at_best=("batch", "group", "batch_4", "group_4"),
        measure=measure,
        imagine=imagine,
    )
)
