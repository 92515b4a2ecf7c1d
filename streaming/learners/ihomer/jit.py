"""The one kernel decorator of the multi-label learner: numba at the first call, never at import.

Kernels may call kernels: what is compiled is a copy of the function that knows the dispatchers of those it names, so that the
module's own names stay what they are. `kernel.function` is the interpreted twin that tests compare with. No fastmath, so no
sum is reordered; `error_model="numpy"`, so that division vectorises (no kernel divides by zero).
"""

import types
from collections.abc import Callable
from typing import Any, Final, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS: Final[dict[str, Any]] = {"nogil": True, "error_model": "numpy"}


class Kernel(Generic[P, R]):
    """A function compiled by numba when first called."""

    def __init__(self, function: Callable[P, R]) -> None:
        self.function = function
        self._compiled: Callable[P, R] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._compiled is None:
            self._compiled = self.dispatcher()
        return self._compiled(*args, **kwargs)

    def dispatcher(self) -> Callable[P, R]:
        """numba's own object, which compiles when it is called."""
        if self._compiled is None:
            import numba  # here and nowhere above: see the module docstring

            plain: Any = self.function
            known = {
                name: value.dispatcher() if isinstance(value, Kernel) else value
                for name, value in plain.__globals__.items()
                if name in plain.__code__.co_names or name.startswith("__")
            }
            copy = types.FunctionType(plain.__code__, known, plain.__name__, plain.__defaults__)
            copy.__module__, copy.__qualname__ = plain.__module__, plain.__qualname__
            try:
                self._compiled = numba.njit(cache=True, **_OPTIONS)(copy)
            except RuntimeError:  # no cache folder is writable: compile anew in each process
                self._compiled = numba.njit(**_OPTIONS)(copy)
        return self._compiled


def kernel(function: Callable[P, R]) -> Kernel[P, R]:
    """Decorate a loop over flat arrays that its caller owns and has checked."""
    return Kernel(function)
