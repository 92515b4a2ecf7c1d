"""The learners' errors: one base, each error also the builtin it is a case of."""


class LearnerError(Exception):
    """Base of every error a learner, its checkpoint or its loop raises."""


class BadCheckpoint(LearnerError, ValueError):
    """The bytes are not a whole, unaltered checkpoint of the expected kind; nothing was restored from them."""


class WrongFeatures(LearnerError, TypeError):
    """A column the features name is absent from the batch, or of a type that cannot be hashed."""


class BadId(LearnerError, ValueError):
    """A value is no id: absent, NaN, or of a type that has no stable identity."""


class BudgetTooSmall(LearnerError, ValueError):
    """The bytes granted cannot hold what has to be there."""


class BudgetExceeded(LearnerError, MemoryError):
    """More bytes or blocks were about to be held than granted; nothing was taken."""


class Diverged(LearnerError, FloatingPointError):
    """A step left the finite numbers; it was not taken."""
