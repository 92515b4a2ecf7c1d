package headrace.scheduler;

/** A task set that Spark has submitted and not yet removed. Work is in core-µs. */
final class Entry {
  final long id;
  final Job job;
  final int sparkJob; // Spark's own job id, its FIFO key
  final int stage;
  final int tasks;
  final boolean barrier;
  final double submitted; // ms
  Object owner; // whoever told the queue of it finds its own there
  long prior; // estimate at submission
  long work; // estimate now
  long credited;
  long spent;
  long left; // estimated work of started and unstarted tasks that is still to come
  long committed; // of left, what the started tasks are expected to take
  int running;
  int done;

  // Sort keys, read once before each sort so that the comparator sees values that stand still.
  boolean needy;
  double share;
  double deadline;

  Entry(long id, Job job, int sparkJob, int stage, int tasks, boolean barrier, double now, long prior) {
    this.id = id;
    this.job = job;
    this.sparkJob = sparkJob;
    this.stage = stage;
    this.tasks = tasks;
    this.barrier = barrier;
    this.submitted = now;
    this.prior = prior;
    this.work = prior;
    this.left = prior;
  }

  /** Whether a task of its job was ever started. */
  boolean begun() {
    return running > 0 || job.spent > 0;
  }
}
