package headrace.scheduler;

import java.util.ArrayList;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.function.IntSupplier;
import org.apache.spark.scheduler.Pool;
import org.apache.spark.scheduler.Schedulable;
import org.apache.spark.scheduler.SchedulingMode;
import org.apache.spark.scheduler.TaskSetManager;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import scala.collection.mutable.ArrayBuffer;

/**
 * The one pool under Spark's root: every task set lands in it, whatever pool it asks for, and leaves it in our order.
 *
 * <p>Spark calls add, remove and sort under its TaskSchedulerImpl lock, which therefore guards all state here. Whatever goes
 * wrong on our side is told once, and from then on the pool is what its superclass is: Spark's own FIFO pool.
 */
final class FairPool extends Pool {
  /** A pool of fairscheduler.xml: its weight and minimum share, for the user of that name. */
  record Share(int weight, int minShare) {}

  private static final Logger LOG = LoggerFactory.getLogger("headrace.scheduler");
  private static final long CORES_EVERY_MS = 1_000;
  private static final double LEAST_TASK_US = 1_000.0; // no estimate is below what Spark can measure

  private final FairQueue queue;
  private final Costs costs;
  private final Map<String, Share> shares;
  private final String applicationUser;
  private final IntSupplier slots;
  private final Map<Object, Tracked> tracked = new IdentityHashMap<>();
  private List<Tracked> lined = new ArrayList<>(); // as last ordered: the next order finds them nearly sorted
  private final long began = System.nanoTime();
  private double coresRead = -CORES_EVERY_MS;
  private boolean broken;
  private boolean held; // a task set was left out of the last order
  private long sorts;
  private long sortNanos;

  FairPool(FairQueue queue, Costs costs, Map<String, Share> shares, String applicationUser, IntSupplier slots) {
    super("headrace", SchedulingMode.FIFO(), 0, 1);
    this.queue = queue;
    this.costs = costs;
    this.shares = shares;
    this.applicationUser = applicationUser;
    this.slots = slots;
  }

  /** Spark looks a task set's pool up by name: answering every name catches every task set. */
  @Override
  public Schedulable getSchedulableByName(String name) {
    return this;
  }

  @Override
  public void addSchedulable(Schedulable schedulable) {
    super.addSchedulable(schedulable);
    if (broken || !(schedulable instanceof TaskSetManager manager)) return;
    try {
      tick();
      track(manager);
    } catch (Throwable e) {
      giveUp(e);
    }
  }

  @Override
  public void removeSchedulable(Schedulable schedulable) {
    super.removeSchedulable(schedulable);
    if (broken) return;
    try {
      Tracked gone = tracked.remove(schedulable);
      if (gone == null) return;
      gone.gone = true;
      tick();
      gone.observe(queue, System.currentTimeMillis());
      queue.remove(gone.entry);
      if (gone.complete() && gone.entry.spent > 0) {
        costs.learn(gone.stageKey, gone.entry.spent, gone.size);
        costs.learnTask((double) gone.entry.spent / gone.entry.tasks);
      }
    } catch (Throwable e) {
      giveUp(e);
    }
  }

  @Override
  public ArrayBuffer<TaskSetManager> getSortedTaskSetQueue() {
    if (!broken) {
      try {
        return sorted();
      } catch (Throwable e) {
        giveUp(e);
      }
    }
    return super.getSortedTaskSetQueue();
  }

  private ArrayBuffer<TaskSetManager> sorted() {
    long started = System.nanoTime();
    tick();
    long nowMs = System.currentTimeMillis();
    List<Entry> waiting = new ArrayList<>(lined.size());
    List<Tracked> rest = new ArrayList<>();
    for (Tracked one : lined) {
      if (one.gone) continue;
      one.observe(queue, nowMs);
      if (one.manager.isSchedulable()) waiting.add(one.entry);
      else rest.add(one);
    }
    List<Entry> order = queue.order(waiting);
    held = order.size() < waiting.size();
    ArrayBuffer<TaskSetManager> out = new ArrayBuffer<>(order.size());
    List<Tracked> next = new ArrayList<>(waiting.size() + rest.size());
    for (Entry entry : order) {
      Tracked one = (Tracked) entry.owner;
      one.ordered = sorts;
      out.addOne(one.manager);
      next.add(one);
    }
    if (held) {
      for (Entry entry : waiting) {
        Tracked one = (Tracked) entry.owner;
        if (one.ordered != sorts) next.add(one);
      }
    }
    next.addAll(rest);
    lined = next;
    sorts++;
    sortNanos += System.nanoTime() - started;
    return out;
  }

  private void track(TaskSetManager manager) {
    Identity who = Identity.of(manager.taskSet(), applicationUser);
    Properties p = manager.taskSet().properties() == null ? new Properties() : manager.taskSet().properties();
    Share share = shares.getOrDefault(who.pool(), new Share(1, 0));
    Job known = queue.job(who.job());
    String stageKey = who.stageKey(manager.taskSet(), known == null ? 0 : known.stages);
    Plans.Seen plan = Plans.of(p.getProperty(Identity.EXECUTION));
    double size = positive(p, Identity.SIZE, plan == null ? 0.0 : plan.bytes());
    double hint = positive(p, Identity.COST_MS, 0.0) * 1_000.0;
    double jobPrior = hint > 0 ? hint : who.named() ? Math.max(0.0, costs.expect(who.jobClass() + "#job", size)) : 0.0;
    double prior = hint > 0 ? hint - (known == null ? 0 : known.known) : costs.expect(stageKey, size);
    if (hint == 0 && prior < 0) prior = costs.taskUs() * manager.numTasks();
    Entry entry =
        queue.submit(
            new FairQueue.Submission(
                who.user(),
                positive(p, Identity.WEIGHT, share.weight),
                share.minShare,
                who.job(),
                manager.priority(),
                manager.stageId(),
                Math.max(1, manager.numTasks()),
                manager.isBarrier(),
                (long) Math.max(prior, LEAST_TASK_US * Math.max(1, manager.numTasks())),
                (long) jobPrior));
    if (entry.job.costKey == null) {
      entry.job.costKey = who.named() ? who.jobClass() + "#job" : "";
      entry.job.size = size;
    }
    Tracked one = new Tracked(manager, entry, stageKey, size);
    entry.owner = one;
    tracked.put(manager, one);
    lined.add(one);
  }

  /** A number above 0 from a property; the other value where there is none, or none that makes sense. */
  private static double positive(Properties p, String name, double otherwise) {
    String text = p.getProperty(name);
    if (text == null) return otherwise;
    try {
      double value = Double.parseDouble(text);
      return value > 0 && value < Double.POSITIVE_INFINITY ? value : otherwise;
    } catch (NumberFormatException e) {
      return otherwise;
    }
  }

  /** The queue's clock does not go back when the machine's is set. */
  private void tick() {
    double nowMs = (System.nanoTime() - began) / 1e6;
    if (nowMs - coresRead >= CORES_EVERY_MS) {
      coresRead = nowMs;
      int counted = slots.getAsInt();
      if (counted > 0) queue.setCores(counted);
    }
    queue.advance(nowMs);
  }

  private void giveUp(Throwable cause) {
    broken = true;
    held = false;
    tracked.clear();
    lined.clear();
    LOG.warn(
        "headrace scheduler failed and has stepped back; Spark's FIFO order goes on. Restart the application to try again,"
            + " or set {}policy=none",
        Conf.PREFIX,
        cause);
  }

  FairQueue queue() {
    return queue;
  }

  boolean broken() {
    return broken;
  }

  boolean held() {
    return held;
  }

  long sorts() {
    return sorts;
  }

  double meanSortUs() {
    return sorts == 0 ? 0.0 : sortNanos / 1e3 / sorts;
  }

  /** Brings the books up to date, for a report. */
  void refresh() {
    if (broken) return;
    tick();
    long nowMs = System.currentTimeMillis();
    for (Tracked one : tracked.values()) one.observe(queue, nowMs);
  }
}
