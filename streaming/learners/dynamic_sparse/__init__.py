"""Dynamic sparse learning."""
