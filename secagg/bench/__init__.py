"""The benchmark suite: what the kernels and rounds cost, beside public peers and the hardware's
limits, all measured in the same run. ``secagg bench`` runs it; ``docs/performance.md`` is made
from a run by :mod:`secagg.bench.report`."""
