"""The one kernel decorator of the multi-label learner: numba at the first call, never at import.

Kernels may call kernels: what is compiled is a copy of the function that knows the dispatchers of those it names, so that the
module's own names stay what they are. `kernel.function` is the interpreted twin that tests compare with. No fastmath, so no
sum is reordered; `error_model="numpy"`, so that division vectorises (no kernel divides by zero).

Compiled code is cached beside its module. numba looks at that one file to see whether it is current, but what is compiled holds the
kernels and numbers of other modules too; so the cached name carries a fingerprint of all of them.
"""

import hashlib
import numbers
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

    def fingerprint(self) -> str:
        """Eight digits that change with the code, and with the kernels and numbers of any module that it names."""
        plain: Any = self.function
        code = plain.__code__
        parts = [code.co_code, repr(code.co_consts)]
        for name in sorted(code.co_names):
            value = plain.__globals__.get(name)
            if isinstance(value, Kernel):
                parts.append(value.fingerprint())
            elif isinstance(value, numbers.Number):
                parts.append(repr(value))
        joined = b"\0".join(part if isinstance(part, bytes) else part.encode() for part in parts)
        return hashlib.sha256(joined).hexdigest()[:8]

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
            copy.__module__, copy.__qualname__ = (
                plain.__module__,
                f"{plain.__qualname__}_{self.fingerprint()}",
            )
            try:
                self._compiled = numba.njit(cache=True, **_OPTIONS)(copy)
            except RuntimeError:  # no cache folder is writable: compile anew in each process
                self._compiled = numba.njit(**_OPTIONS)(copy)
        return self._compiled


def kernel(function: Callable[P, R]) -> Kernel[P, R]:
    """Decorate a loop over flat arrays that its caller owns and has checked."""
    return Kernel(function)
