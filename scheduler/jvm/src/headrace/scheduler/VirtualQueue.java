package headrace.scheduler;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.TreeSet;

/**
 * A virtual machine that active flows share by weight; what it would have done says who is owed what in the real one.
 *
 * <p>Global virtual time is core-µs per unit of weight. A flow is active until virtual time reaches its end. Flows are advanced
 * only when they are touched or run empty, so serving and resizing take O(log n). It knows nothing of Spark, of clocks or of
 * estimates. Not thread safe. {@link PaperQueue} and {@link SelfQueue} say how a flow's jobs follow one another.
 */
abstract class VirtualQueue {
  private final double grace; // virtual time after which a returning job has lost its place
  private final TreeSet<Flow> active =
      new TreeSet<>(Comparator.comparingDouble((Flow flow) -> flow.end).thenComparing(flow -> flow.name));
  private final List<Flow> emptied = new ArrayList<>();
  private double weights;
  double now;

  VirtualQueue(double grace) {
    this.grace = grace;
  }

  /**
   * Says how much work a job is in all.
   *
   * @return virtual service that a job has received beyond {@code total}, in core-µs: it came from work that others did, so the
   *     caller owes it to them
   */
  abstract double resize(Job job, long total, boolean returning);

  /** Says how much real work of a job is still to come. */
  abstract void setRest(Job job, long rest);

  /** Says that a job has really ended. */
  abstract void end(Job job);

  /** Global virtual time by which the job should be done. */
  abstract double deadline(Job job);

  /** Virtual time has reached the end of the flow. */
  abstract void atEnd(Flow flow);

  /** Gives the active flows {@code service} core-µs in all, each by its weight; what nobody needs is lost. */
  final void serve(double service) {
    while (service > 0 && !active.isEmpty()) {
      Flow first = active.first();
      double need = Math.max(0.0, (first.end - now) * weights);
      if (need > service) {
        now += service / weights;
        return;
      }
      now = Math.max(now, first.end);
      service -= need;
      active.remove(first);
      first.active = false;
      weights = active.isEmpty() ? 0.0 : weights - first.weight; // no rounding is carried into the next busy period
      emptied.add(first);
      atEnd(first);
    }
  }

  /** Changes a flow's share from now on. */
  void setWeight(Flow flow, double weight) {
    if (flow.active) {
      leave(flow);
      flow.start = now - (now - flow.start) * flow.weight / weight;
      flow.end = now + (flow.end - now) * flow.weight / weight;
      weights += weight - flow.weight;
      active.add(flow);
    }
    flow.weight = weight;
  }

  /** Virtual service the flow has still to come, in core-µs. */
  final double backlog(Flow flow) {
    return flow.active ? Math.max(0.0, flow.end - now) * flow.weight : 0.0;
  }

  /** Flows that ran empty since the last call. */
  final List<Flow> takeEmptied() {
    if (emptied.isEmpty()) return List.of();
    List<Flow> taken = List.copyOf(emptied);
    emptied.clear();
    return taken;
  }

  /** Takes a flow out, to change its end; {@link #join} puts it back. */
  final void leave(Flow flow) {
    if (flow.active) active.remove(flow);
  }

  final void join(Flow flow, double end) {
    flow.end = end;
    active.add(flow);
  }

  /** Makes an idle flow active: from now on, or from its old end where it comes back within the grace period. */
  final void wake(Flow flow, boolean returning) {
    if (!(returning && now - flow.end <= grace)) flow.end = now;
    flow.start = flow.end;
    flow.seen = now;
    flow.active = true;
    weights += flow.weight;
  }

  /** What the flow has virtually received since it was last looked at. */
  final double received(Flow flow) {
    if (!flow.active) return 0.0;
    double received = (now - flow.seen) * flow.weight;
    flow.seen = now;
    return received;
  }
}
