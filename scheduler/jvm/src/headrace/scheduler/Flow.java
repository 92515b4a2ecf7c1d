package headrace.scheduler;

/** What the virtual system shares the machine between: a user under uwfq, a job under cfq. */
final class Flow {
  final String name;
  double weight;
  double v; // own virtual time, core-µs that each of its jobs has virtually received
  double start; // global virtual time at which its chain begins, in the paper
  double end; // and at which it has had all that its jobs need
  double seen; // global virtual time up to which v has been advanced
  boolean active;
  int jobs; // that have not been forgotten
  final Chain chain = new Chain();

  Flow(String name, double weight) {
    this.name = name;
    this.weight = weight;
  }
}
