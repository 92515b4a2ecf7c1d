package headrace.scheduler;

/** One SQL execution, micro-batch or RDD action, whatever stages it is made of. Work is in core-µs. */
final class Job {
  final String key;
  final Flow flow;
  final User user;
  final long seq;

  // Virtual machine, written by the VirtualQueue alone.
  long work; // what is in the chain: all of the job; in the paper, of its present chunk
  long before; // in the paper, of the chunks that are virtually done
  long ranked; // what its place in the chain was computed from
  double entered; // the flow's virtual time when it entered the chain
  double deadline; // in the paper, once virtually done
  boolean queued; // in the chain
  long rest; // real work still to come, on our own clock
  Job left, right; // Chain
  int priority;
  long sum; // of work in this subtree
  long restSum;

  // What is known of the real one, written by FairQueue alone.
  long prior; // estimate for the whole job, 0 when only its stages are estimated
  long known; // sum over its task sets: estimate while one lives, what was credited afterwards
  long credited;
  long spent;
  int live; // task sets
  int stages; // task sets so far; the next one's ordinal
  boolean recorded; // among the ended ones
  double submitted; // ms
  double idleSince; // ms; meaningful while live == 0
  String costKey; // among the learnt costs; empty where the job has no class
  double size;
  long firstEstimate; // for the record: estimate against reality
  long tasks;

  Job(String key, Flow flow, User user, long seq, double now) {
    this.key = key;
    this.flow = flow;
    this.user = user;
    this.seq = seq;
    this.submitted = now;
  }

  /** When it would be done, on the flow's own clock; its place in the chain. */
  double due() {
    return entered + ranked;
  }
}
