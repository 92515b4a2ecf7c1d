package headrace.scheduler;

/** Who pays: weight, cap, and what was received. Service is in core-µs. */
final class User {
  final String name;
  double weight;
  double cap = 1.0; // share of the cores
  int minShare; // running tasks below which it goes first, as in a Spark pool
  int running; // tasks now
  long served;
  long committed; // what the running tasks are still expected to take
  double tokens; // service the cap still allows, in core-µs
  double refilled; // ms
  int jobs; // that have not been forgotten
  long finished;
  double responses; // ms, sum over finished jobs

  User(String name, double weight, double now) {
    this.name = name;
    this.weight = weight;
    this.refilled = now;
  }

  /** Fills the bucket of a capped user; it holds at most half a second of its share. */
  void refill(double now, int cores) {
    double rate = cap * cores * 1000.0; // core-µs per ms
    tokens = Math.min(tokens + rate * (now - refilled), rate * BURST_MS);
    refilled = now;
  }

  static final double BURST_MS = 500.0;
}
