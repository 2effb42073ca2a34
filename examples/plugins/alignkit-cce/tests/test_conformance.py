"""The contract of kernels, checked on `cce`: values and gradients of its ops against the eager reference."""

from alignkit.testing import KernelContract


class TestCCE(KernelContract):
    component = "cce"
