"""What ties and dare do with task vectors: count, trim, combine; README.md has the formulas."""

from weightsmith.kernels import elementwise

__all__ = ["combine", "count", "trim"]

# One warning about a missing native module is enough: elementwise gives it.
if elementwise.native:
    from weightsmith.kernels import _native

    combine, count, trim = (
        _native.task_vectors.combine,
        _native.task_vectors.count,
        _native.task_vectors.trim,
    )
else:
    from weightsmith.kernels.task_vectors.reference import combine, count, trim
