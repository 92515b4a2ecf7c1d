package headrace.scheduler;

import java.util.Comparator;
import java.util.Locale;

/** In what order waiting task sets are offered free cores: one comparator each, over keys that {@link FairQueue} has read. */
enum Policy {
  /** Users by weight, a user's jobs one after the other. */
  UWFQ(virtual()),
  /** Each user an equal share by weight, and within a user each task set: Spark's FAIR with a FAIR pool per user. */
  UJF(
      Comparator.comparing((Entry e) -> !e.needy)
          .thenComparingDouble(e -> e.share)
          .thenComparing(e -> e.job.user.name)
          .thenComparingInt(e -> e.running)
          .thenComparingLong(e -> e.job.seq)
          .thenComparingInt(e -> e.stage)
          .thenComparingLong(e -> e.id)),
  /** Virtual fair queuing of jobs, whoever submits them. */
  CFQ(virtual()),
  /** Spark's default: by job, then by stage. */
  FIFO(
      Comparator.comparingInt((Entry e) -> e.sparkJob)
          .thenComparingInt(e -> e.stage)
          .thenComparingLong(e -> e.id)),
  /** Spark's own pools; nothing is installed. */
  NONE(null);

  final Comparator<Entry> order;

  Policy(Comparator<Entry> order) {
    this.order = order;
  }

  /** Whether the order comes from the virtual queue. */
  boolean queues() {
    return this == UWFQ || this == CFQ;
  }

  static Policy of(String name) {
    for (Policy policy : values()) {
      if (policy.name().toLowerCase(Locale.ROOT).equals(name)) return policy;
    }
    throw new IllegalArgumentException(
        "expected policy uwfq, ujf, cfq, fifo or none, got '" + name + "'; set spark.headrace.scheduler.policy to one of them");
  }

  private static Comparator<Entry> virtual() {
    return Comparator.comparing((Entry e) -> !e.needy)
        .thenComparingDouble(e -> e.deadline)
        .thenComparingLong(e -> e.job.seq)
        .thenComparingInt(e -> e.stage)
        .thenComparingLong(e -> e.id);
  }
}
