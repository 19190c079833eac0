"""Phase-change memory as IBM's aihwkit models it for inference."""

from dataclasses import dataclass

from weightsmith.crossbar.curves import Curve, InversePower, Logarithmic
from weightsmith.crossbar.powerlaw import PowerLaw


@dataclass(frozen=True, kw_only=True)
class Pcm(PowerLaw):
    """Fit to a million devices of a 90 nm array: Nandakumar et al., ICECS 2019.

    Constants of aihwkit 1.1.0, PCMLikeNoiseModel: g_max and coefficients in microsiemens, times in
    seconds, the rest without unit.
    """

    name: str = "pcm"
    source: str = "Nandakumar et al., ICECS 2019; constants of aihwkit 1.1.0, PCMLikeNoiseModel"
    g_max: float = 25.0
    coefficients: tuple[float, ...] = (0.26348, 1.9650, -1.1731)
    t_0: float = 20.0
    nu_mean: Curve | None = Logarithmic(-0.0155, 0.0244, low=0.049, high=0.1)
    nu_std: Curve | None = Logarithmic(-0.0125, -0.0059, low=0.008, high=0.045)
    t_read: float = 250e-9
    q: Curve | None = InversePower(0.0088, power=0.65, most=0.2)


DEVICE = Pcm()
