"""The one kernel decorator, and the rule for when a kernel is worth its compiler.

Importing numba takes one to three seconds and a first call some tenths more, so nothing here imports it until a
stream is long enough to pay for it. Kernels have lazy signatures, are cached on disk where a cache folder is
writable, release the GIL, fill arrays their caller owns, and never raise or allocate: whoever calls one has checked
everything before.
"""

from collections.abc import Callable
from typing import Any, Final, Generic, ParamSpec

import numpy as np
from numpy.typing import NDArray

P = ParamSpec("P")

SMALL_VALUES: Final = 65_536
"""Up to here (one row group) numpy takes about a millisecond, far less than importing a compiler."""


_preferred = False


class Kernel(Generic[P]):
    """A function compiled by numba when first called."""

    def __init__(self, function: Callable[P, None], register: Callable[[], None] | None = None) -> None:
        self.function = function
        self._register = register
        self.loaded: Callable[P, None] | None = None
        """What numba made of it, once it has."""

    @property
    def ready(self) -> bool:
        """Whether numba has been loaded for this kernel."""
        return self.loaded is not None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.loaded is None:
            if self._register is not None:
                self._register()
            self.loaded = _compile(self.function)
        self.loaded(*args, **kwargs)


def kernel(function: Callable[P, None]) -> Kernel[P]:
    """Decorate a loop over flat arrays: `njit(cache=True, nogil=True)`, applied on first use."""
    return Kernel(function)


def kernel_with(register: Callable[[], None]) -> Callable[[Callable[P, None]], Kernel[P]]:
    """As ``kernel``, of a loop that calls functions which ``register`` makes known to numba; it may run more than once."""
    return lambda function: Kernel(function, register)


def pick(n: int, twin: Callable[P, None], compiled: Kernel[P]) -> Callable[P, None]:
    """The kernel for n values if they are many, or if it is loaded anyway; else its numpy twin."""
    if compiled.loaded is not None:
        return compiled.loaded
    return compiled if n > SMALL_VALUES or _preferred else twin


def preferred() -> bool:
    """Whether `prefer_kernels` has been called."""
    return _preferred


def prefer_kernels() -> None:
    """Use kernels for short streams too, from now on and in this process.

    For whoever is about to read or write many pages: each is short, but together they repay loading numba, which the
    first of them will do. As a rule of thumb that takes a hundred million values.
    """
    global _preferred
    _preferred = True


class Workload:
    """What this process does on short streams, counted: once it is more than ``enough``, kernels are preferred."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.done = 0

    def add(self, n: int) -> None:
        """Note that n more are about to be done."""
        before, self.done = self.done, self.done + n
        if before <= self.enough < self.done:
            prefer_kernels()


def words(payload: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """`payload` as integers of `dtype`, always read-only and aligned, so that each kernel compiles for one layout."""
    view = payload.view(dtype)
    if not view.flags.aligned:
        view = view.copy()
    view = view.view()
    view.flags.writeable = False
    return view


def _compile(function: Callable[P, None]) -> Callable[P, None]:
    import numba  # here and nowhere above: see the module docstring

    try:
        compiled: Callable[P, None] = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # No cache folder is writable: compile anew in each process instead.
        compiled = numba.njit(nogil=True)(function)
    # NUMBA_DISABLE_JIT=1 hands the function itself back.
    return _wrapping(function) if compiled is function else compiled


def _wrapping(function: Callable[P, None]) -> Callable[P, None]:
    def interpreted(*args: P.args, **kwargs: P.kwargs) -> None:
        # Machine words wrap silently and kernels rely on it; numpy's scalars would warn.
        with np.errstate(over="ignore"):
            function(*args, **kwargs)

    return interpreted
