"""Learned kernels that take over from one another. See `tsdyn.maths.changepoints`."""

from collections.abc import Sequence

from ..maths.changepoints import reset_at, switch_at
from ..maths.kernels import Kernel
from .kernels import LearnedKernel, current, several


class ResetAt(LearnedKernel):
    """Every stretch has a kernel of its own, and forgets what was before it.

    Args:
        times: changepoints, increasing, in the units of t; not learned.
        kernels: one more than changepoints.
    """

    def __init__(self, times: Sequence[float], kernels: Sequence[LearnedKernel]):
        super().__init__()
        self.times, self.kernels = tuple(times), several(kernels)
        self.kernel()  # refuses at once what does not fit together

    def kernel(self) -> Kernel:
        return reset_at(self.times, current(self.kernels))


class SwitchAt(LearnedKernel):
    """Every stretch is driven by a kernel of its own; f goes on with its derivatives.

    Args:
        times: changepoints, increasing, in the units of t; not learned.
        kernels: one more than changepoints, of one structure.
    """

    def __init__(self, times: Sequence[float], kernels: Sequence[LearnedKernel]):
        super().__init__()
        self.times, self.kernels = tuple(times), several(kernels)
        self.kernel()  # refuses at once what does not fit together

    def kernel(self) -> Kernel:
        return switch_at(self.times, current(self.kernels))
