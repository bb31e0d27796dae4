"""Parameters themselves: weight norms, and a normalizer's gamma and beta."""

from torch import Tensor, nn

from bnlab.training.models import roles
from bnlab.training.probes import PROBES
from bnlab.training.probes._base import Sample


@PROBES.register("weights")
def weights(model: nn.Module, _sample: Sample) -> dict[str, float]:
    """Frobenius norms of weights; median, share below zero and share near zero of gammas.

    `probe/weight_norm/<layer>`; `probe/gamma_median/<norm>`, `probe/gamma_negative/<norm>`
    (a negative gamma turns a max-pool after it into a min-pool), `probe/gamma_tiny/<norm>`
    (|gamma| < 0.01), `probe/beta_median/<norm>`.
    """
    found = roles(model)
    values = {
        f"probe/weight_norm/{name}": float(layer.weight.detach().double().norm())
        for name, layer in found.weighted.items()
    }
    for name, norm in found.norms.items():
        weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
        if not isinstance(weight, Tensor):
            continue
        gamma = weight.detach().double()
        values[f"probe/gamma_median/{name}"] = float(gamma.median())
        values[f"probe/gamma_negative/{name}"] = float((gamma < 0).double().mean())
        values[f"probe/gamma_tiny/{name}"] = float((gamma.abs() < 0.01).double().mean())
        if isinstance(bias, Tensor):
            values[f"probe/beta_median/{name}"] = float(bias.detach().double().median())
    return values
