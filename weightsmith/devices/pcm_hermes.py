"""The phase-change memory of IBM's HERMES chip, two devices behind each conductance."""

from dataclasses import dataclass

from weightsmith.crossbar.curves import Branched, Curve, Logarithmic
from weightsmith.crossbar.powerlaw import PowerLaw


@dataclass(frozen=True, kw_only=True)
class PcmHermes(PowerLaw):
    """Fit to the 64-core HERMES chip: Le Gallo et al., Nature Electronics 2023.

    Constants of aihwkit 1.1.0, HermesNoiseModel with two devices: g_max and coefficients in
    microsiemens, times in seconds, the rest without unit. Both devices are programmed to the same
    conductance and drift as one, which aihwkit says is worse than the chip.
    """

    name: str = "pcm-hermes"
    source: str = (
        "Le Gallo et al., Nature Electronics 2023; constants of aihwkit 1.1.0, HermesNoiseModel"
    )
    g_max: float = 20.7
    devices: int = 2
    coefficients: tuple[float, ...] = (0.16603222, 4.71806468, -8.48101252, 4.68961419)
    t_0: float = 300.0
    nu_mean: Curve | None = Branched(
        0.0945, Logarithmic(-0.0387, -0.0182, low=0.0720, high=0.13), (0.0736, -0.0126, -0.0436)
    )
    nu_std: Curve | None = Branched(
        0.3055, Logarithmic(-0.0117, -0.0057, low=0.0091, high=0.04), (0.0073, 0.0093, -0.0118)
    )
    t_read: float = 512e-9
    q: Curve | None = Branched(
        0.16, Logarithmic(-0.0117, -0.0069, low=0.015, high=0.04), (0.0123, 0.0211, -0.0280, 0.0069)
    )


DEVICE = PcmHermes()
