package headrace.scheduler;

/**
 * Our second level: a flow's jobs are ranked as in the paper, and their deadlines counted back from the flow's end by what is
 * really still to come of those behind them.
 *
 * <p>While jobs run in that order and estimates hold, deadlines are the paper's. But a flow whose long job has had its share
 * cannot claim that share again for a short one, and a job that was thought too small stays where it is, with all it has grown
 * by charged to its flow.
 */
final class SelfQueue extends VirtualQueue {
  SelfQueue(double grace) {
    super(grace);
  }

  @Override
  double resize(Job job, long total, boolean returning) {
    Flow flow = job.flow;
    flow.v += received(flow) / Math.max(1, flow.chain.size());
    long grown = total - job.work;
    if (!job.queued) {
      job.ranked = Math.max(1, grown);
      job.entered = flow.v;
      job.queued = true;
      flow.chain.add(job);
    }
    job.work = total;
    if (grown == 0) return 0.0;
    if (grown < 0 && !flow.active) return -grown;
    leave(flow);
    if (!flow.active) wake(flow, returning);
    double end = flow.end + grown / flow.weight;
    double owed = grown < 0 ? Math.max(0.0, (now - end) * flow.weight) : 0.0;
    join(flow, owed > 0 ? now : end);
    return owed;
  }

  /**
   * A job that turns out larger goes behind its flow's others only when more than twice what it was ranked by is still ahead of
   * it: were it ranked by all it has grown by, each job of a flow thought too small would be left half done for the next.
   */
  @Override
  void setRest(Job job, long rest) {
    Chain chain = job.flow.chain;
    if (!job.queued) {
      job.rest = rest;
    } else if (rest > 2 * job.ranked) {
      chain.remove(job);
      job.rest = rest;
      job.ranked = Math.max(0, (long) Math.ceil(job.flow.v - job.entered)) + rest;
      chain.add(job);
    } else {
      chain.setRest(job, rest);
    }
  }

  @Override
  void end(Job job) {
    if (!job.queued) return;
    job.flow.v += received(job.flow) / job.flow.chain.size();
    job.flow.chain.remove(job);
    job.queued = false;
  }

  @Override
  double deadline(Job job) {
    Flow flow = job.flow;
    return job.queued ? flow.end - flow.chain.restAfter(job) / flow.weight : flow.end;
  }

  @Override
  void atEnd(Flow flow) {}
}
