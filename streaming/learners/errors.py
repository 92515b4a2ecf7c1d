"""The learners' errors: one base, each error also the builtin it is a case of."""


class LearnerError(Exception):
    """Base of every error a learner, its checkpoint or its loop raises."""


class BadCheckpoint(LearnerError, ValueError):
    """The bytes are not a whole, unaltered checkpoint of the expected kind; nothing was restored from them."""


class WrongFeatures(LearnerError, TypeError):
    """A column the features name is absent from the batch, or of a type that cannot be hashed."""
