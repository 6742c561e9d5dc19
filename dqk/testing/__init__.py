"""Laws that every backend, kernel and worker pool must obey, as plain functions for anybody's tests.

    from dqk.testing import PoolSubject, check_backend, check_kernel, check_pool

    check_backend(MyBackend(), circuit)    # all laws that its capabilities promise, on one circuit
    check_kernel(MyKernel())
    check_pool(PoolSubject(MyPool, owns_processes=True))    # all laws that bind pools which can do that

They raise AssertionError with the law, the place and both values. A test runner that reports each law by itself calls
`law(backend, circuit)` for every law of BACKEND_LAWS with `law.applies(backend)`.
"""

from dqk.testing.backends import BACKEND_LAWS, SAMPLED_LAWS, check_backend
from dqk.testing.comparison import assert_close, derivative, tolerance, use_threads
from dqk.testing.kernels import KERNEL_LAWS, check_kernel
from dqk.testing.law import Law
from dqk.testing.pool_subject import PoolSubject
from dqk.testing.pools import POOL_LAWS, check_pool

__all__ = [
    "BACKEND_LAWS",
    "KERNEL_LAWS",
    "POOL_LAWS",
    "SAMPLED_LAWS",
    "Law",
    "PoolSubject",
    "assert_close",
    "check_backend",
    "check_kernel",
    "check_pool",
    "derivative",
    "tolerance",
    "use_threads",
]
