"""Is Caffe's layer, as document 002 sets it up, batch normalization?"""

from bnlab.claims._base import CLAIMS, Claim, best_lrs, divergences
from bnlab.claims._contrast import SHORT, Contrast, Evidence, detail, make_contrast, show_count

POPULATION = "probe/test_accuracy/population"

BY_SOURCE = (
    "by reading: document 002 says that use_global_stats is false by default; in BVLC's "
    "batch_norm_layer.cpp the default is `phase_ == TEST`, true in testing, so the document's two "
    "layers, one for each phase, do what one without the setting does"
)


def measure(evidence: Evidence) -> Contrast:
    """What Caffe's layer and its defaults cost in test accuracy."""
    best = evidence.best
    batch, caffe = (evidence.reading(arm, POPULATION) for arm in ("batch", "caffe"))
    return make_contrast(
        best["batch"] - best["caffe"],
        [
            detail("both tested by population statistics", batch - caffe),
            detail("without the Scale layer", best["batch"] - best["caffe_no_scale"]),
            detail("what the Scale layer adds", best["caffe"] - best["caffe_no_scale"]),
            detail("with global statistics in training", best["batch"] - best["caffe_global"]),
        ],
        [best_lrs(evidence), *divergences(evidence), _with_global(evidence), BY_SOURCE],
    )


def _with_global(evidence: Evidence) -> str:
    failed = evidence.diverged.get("caffe_global")
    if failed is None:
        return "no run with global statistics in training"
    return (
        "with use_global_stats: true in training, against which document 002 warns, "
        f"{show_count(int(failed.sum()), len(failed))} diverge: its sums stay 0, so that "
        "activations are divided by the root of eps"
    )


CLAIMS.register("caffe")(
    Claim(
        name="caffe",
        statement="Caffe's BatchNorm and Scale layers, as document 002 sets them up, are batch "
        "normalization.",
        against="A network with Caffe's layers and defaults that loses at least the smallest "
        "effect of interest.",
        quote=("002", "默认情况下use_global_stats为false。"),
        sources=(
            "document 002 shows them",
            "BVLC/caffe, src/caffe/layers/batch_norm_layer.cpp and scale_layer.cpp",
            "Ioffe and Szegedy 2015, arXiv:1502.03167 (what it is held against)",
            "ducha-aiki/caffenet-benchmark (BN without Scale)",
        ),
        definition="What Caffe's layer costs in test accuracy at the learning rate of BN. In "
        "training the two are the same; in testing Caffe's moving average, with a fraction of "
        "0.999, weighs the last thousand batches, the first ones of a short training among them. "
        "With population statistics the difference goes, if that is the reason.",
        formula="accuracy(BN) - accuracy(Caffe's layers), mean over seeds; below the smallest "
        "effect of interest for the claim",
        protocol="Pilot seeds find the neighborhood of BN's best learning rate; every final seed "
        "tunes BN for itself within it, on validation images, and trains all arms once more on "
        "all images at what was best for BN. Beside it Caffe's layer without Scale, and with "
        "global statistics in training.",
        smallest_effect=0.003,
        smallest_under=SHORT,
        reason="0.3 percentage points are about one standard deviation between seeds of this "
        "network at 20 epochs.",
        unit="pp",
        treated=("batch",),
        control=("caffe",),
        at_best=("batch",),
        measure=measure,
        bounded=True,
    )
)
