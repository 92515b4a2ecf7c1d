"""The jobs room: Spark entry points, the command line and the demo; the only room that knows all others."""
