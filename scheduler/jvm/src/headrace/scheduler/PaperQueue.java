package headrace.scheduler;

/**
 * The paper's second level (arXiv 2510.15485): a flow's jobs share it equally in the virtual machine, and are given deadlines one
 * after the other in the order in which they would end there. What really happens to a job is not looked at.
 */
final class PaperQueue extends VirtualQueue {
  PaperQueue(double grace) {
    super(grace);
  }

  /** A job that grows after it was virtually done enters again with the difference. */
  @Override
  double resize(Job job, long total, boolean returning) {
    Flow flow = job.flow;
    catchUp(flow);
    if (job.queued) {
      long work = Math.max(total - job.before, (long) Math.ceil(flow.v - job.entered));
      if (work == job.work) return 0.0;
      leave(flow);
      flow.chain.remove(job);
      job.work = work;
      job.ranked = work;
    } else if (total > job.before) {
      leave(flow);
      if (!flow.active) wake(flow, returning);
      job.work = total - job.before;
      job.ranked = job.work;
      job.entered = flow.v;
      job.queued = true;
    } else {
      return 0.0;
    }
    flow.chain.add(job);
    join(flow, flow.start + flow.chain.sum() / flow.weight);
    return 0.0;
  }

  @Override
  void setRest(Job job, long rest) {}

  @Override
  void end(Job job) {}

  @Override
  double deadline(Job job) {
    return job.queued ? job.flow.start + job.flow.chain.prefix(job) / job.flow.weight : job.deadline;
  }

  @Override
  void setWeight(Flow flow, double weight) {
    catchUp(flow);
    super.setWeight(flow, weight);
  }

  @Override
  void atEnd(Flow flow) {
    while (flow.chain.size() > 0) retire(flow, flow.chain.first());
  }

  private void catchUp(Flow flow) {
    double received = received(flow);
    while (flow.chain.size() > 0) {
      Job first = flow.chain.first();
      double need = (first.due() - flow.v) * flow.chain.size();
      if (need > received) {
        flow.v += received / flow.chain.size();
        return;
      }
      received -= need;
      retire(flow, first);
    }
  }

  private void retire(Flow flow, Job job) {
    flow.v = Math.max(flow.v, job.due());
    flow.start += job.work / flow.weight;
    flow.chain.remove(job);
    job.deadline = flow.start;
    job.before += job.work;
    job.queued = false;
  }
}
