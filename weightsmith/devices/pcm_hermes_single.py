"""The phase-change memory of IBM's HERMES chip, one device behind each conductance."""

from dataclasses import dataclass

from weightsmith.crossbar.curves import Branched, Curve, Logarithmic
from weightsmith.crossbar.powerlaw import PowerLaw


@dataclass(frozen=True, kw_only=True)
class PcmHermesSingle(PowerLaw):
    """Fit to the 64-core HERMES chip: Le Gallo et al., Nature Electronics 2023.

    Constants of aihwkit 1.1.0, HermesNoiseModel with one device: g_max and coefficients in
    microsiemens, times in seconds, the rest without unit.
    """

    name: str = "pcm-hermes-single"
    source: str = (
        "Le Gallo et al., Nature Electronics 2023; constants of aihwkit 1.1.0, HermesNoiseModel"
    )
    g_max: float = 10.35
    coefficients: tuple[float, ...] = (0.15781817, 2.32443916, -2.16310839, 0.68841818)
    t_0: float = 200.0
    nu_mean: Curve | None = Branched(
        0.0945, Logarithmic(-0.0387, -0.0182, low=0.0720, high=0.13), (0.0736, -0.0126, -0.0436)
    )
    nu_std: Curve | None = Branched(
        0.3039, Logarithmic(-0.0120, -0.0023, low=0.0124, high=0.04), (0.0104, 0.0116, -0.0165)
    )
    t_read: float = 512e-9
    q: Curve | None = Branched(
        0.1591,
        Logarithmic(-0.0078, 0.0038, low=0.0179, high=0.04),
        (0.0088, 0.0768, -0.1352, 0.0664),
    )


DEVICE = PcmHermesSingle()
