package headrace.scheduler;

import java.util.ArrayDeque;
import java.util.Deque;

/** The last jobs that ended: what they were thought to cost, what they did, how long they took. Guarded by the scheduler lock. */
final class Recent implements FairQueue.Record {
  /** An ended job; {@code estimateUs} is the estimate at its submission. */
  record Ended(String user, String job, long estimateUs, long spentUs, double responseMs) {}

  private static final int KEPT = 500;

  private final Deque<Ended> jobs = new ArrayDeque<>();
  private final Costs costs;

  Recent(Costs costs) {
    this.costs = costs;
  }

  @Override
  public void ended(Job job, double responseMs) {
    jobs.addLast(new Ended(job.user.name, job.key, job.firstEstimate, job.spent, responseMs));
    if (jobs.size() > KEPT) jobs.removeFirst();
    if (job.costKey != null && !job.costKey.isEmpty()) costs.learn(job.costKey, job.spent, job.size);
  }

  Iterable<Ended> jobs() {
    return jobs;
  }

  /** Response time in ms that a share of the recent jobs did not exceed; 0 where none has ended. */
  double quantile(double share) {
    if (jobs.isEmpty()) return 0.0;
    double[] all = jobs.stream().mapToDouble(Ended::responseMs).sorted().toArray();
    return all[(int) Math.min(all.length - 1, Math.floor(share * all.length))];
  }
}
