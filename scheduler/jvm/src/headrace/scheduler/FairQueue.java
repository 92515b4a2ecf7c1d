package headrace.scheduler;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Orders task sets for a policy and keeps the books: who waits, who was served, what a job was thought to cost and did.
 *
 * <p>Knows nothing of Spark: {@link FairPool} tells it what Spark did, {@code scheduler/model.py} is its slow twin and must
 * order every trace alike. Times are in ms, work in core-µs. Not thread safe; Spark's scheduler lock guards it.
 */
final class FairQueue {
  /** What is known of a task set when it is submitted; {@code jobPrior} is 0 where only stages are estimated. */
  record Submission(
      String user,
      double weight,
      int minShare,
      String job,
      int sparkJob,
      int stage,
      int tasks,
      boolean barrier,
      long prior,
      long jobPrior) {}

  static final double GRACE_MS = 3_000.0; // the paper's; between two stages of a job its user keeps the place
  static final double SETTLE_MS = 500.0; // without a task set, after which a job owes no more than it was credited
  static final double FORGET_MS = 5_000.0;
  static final double BARRIER_PATIENCE_MS = 3_000.0;
  static final double BARRIER_HOLD_MS = 10_000.0; // it may never fit, if executors went away
  static final int MEAN_OF = 3; // tasks that must have ended before their mean replaces the estimate
  static final double WAVERS = 0.5; // of a job's work, by which its deadline may be wrong
  static final int IDLE_USERS = 10_000;

  private final Policy policy;
  private final boolean wall;
  private int cores;
  private double now;
  private long jobSeq;
  private long entrySeq;
  private final VirtualQueue virtual;
  private final Map<String, User> users = new LinkedHashMap<>();
  private final Map<String, Flow> flows = new LinkedHashMap<>();
  private final Map<String, Job> jobs = new LinkedHashMap<>();
  private final Map<Long, Entry> entries = new LinkedHashMap<>();
  private final ArrayDeque<Idle> idle = new ArrayDeque<>();
  private final ArrayDeque<Idle> settled = new ArrayDeque<>();
  private final Map<String, Double> weights = new LinkedHashMap<>();
  private final Map<String, Double> caps = new LinkedHashMap<>();
  private final Record record;

  /** A job without a task set since then; stale once it has got one again. */
  private record Idle(Job job, double since) {
    boolean still() {
      return job.live == 0 && job.idleSince == since;
    }
  }

  /** Told of each job that has ended, before it is forgotten. */
  interface Record {
    void ended(Job job, double responseMs);
  }

  FairQueue(Policy policy, boolean wall, int cores, double now, Record record) {
    this.policy = policy;
    this.wall = wall;
    this.cores = Math.max(1, cores);
    this.now = now;
    this.record = record;
    // In the paper's units: virtual core-ms that pass in the grace period, whoever is active.
    double grace = GRACE_MS * 1000.0 * this.cores / 2.0;
    this.virtual = wall ? new PaperQueue(grace) : new SelfQueue(grace);
  }

  /** Moves on to {@code time}; on the paper's clock the virtual system has worked on all cores meanwhile. */
  void advance(double time) {
    double passed = Math.max(0.0, time - now);
    now += passed;
    if (wall) virtual.serve(passed * 1000.0 * cores);
    tidy();
  }

  void setCores(int cores) {
    this.cores = Math.max(1, cores);
  }

  int cores() {
    return cores;
  }

  void setWeight(String user, double weight) {
    weights.put(user, weight);
    User known = users.get(user);
    if (known != null) reweigh(known, weight);
  }

  /** Limits a user to a share of all cores; 1 lifts the limit. */
  void setCap(String user, double cap) {
    caps.put(user, cap);
    User known = users.get(user);
    if (known != null) cap(known, cap);
  }

  /** A weight in the submission counts until it is changed by {@link #setWeight}, which wins. */
  Entry submit(Submission s) {
    User user = users.computeIfAbsent(s.user, this::enter);
    user.minShare = s.minShare;
    double weight = weights.getOrDefault(s.user, s.weight);
    if (weight != user.weight) reweigh(user, weight);
    Job job = jobs.get(s.job);
    boolean returning = job != null;
    if (job == null) {
      job = new Job(s.job, flow(policy == Policy.CFQ ? "job " + s.job : s.user, user), user, jobSeq++, now);
      job.firstEstimate = Math.max(s.jobPrior, s.prior);
      job.flow.jobs++;
      user.jobs++;
      jobs.put(s.job, job);
    }
    Entry entry = new Entry(entrySeq++, job, s.sparkJob, s.stage, s.tasks, s.barrier, now, s.prior);
    entries.put(entry.id, entry);
    job.live++;
    job.stages++;
    job.tasks += s.tasks;
    job.prior = Math.max(job.prior, s.jobPrior);
    job.known += s.prior;
    resize(job, returning);
    return entry;
  }

  /**
   * What Spark knows of a task set's tasks: how many were successful, what those took, what failed and superfluous attempts took,
   * and for how long each running one has run.
   */
  void observe(Entry entry, int done, long doneUs, long wastedUs, long[] runningUs) {
    User user = entry.job.user;
    long spent = doneUs + wastedUs;
    for (long elapsed : runningUs) spent += elapsed;
    long service = Math.max(0, spent - entry.spent);
    entry.spent += service;
    entry.job.spent += service;
    user.served += service;
    user.tokens -= service;
    user.running += runningUs.length - entry.running;
    entry.running = runningUs.length;
    entry.done = done;
    double unit = done >= MEAN_OF ? (double) doneUs / done : (double) entry.prior / entry.tasks;
    double left = unit * Math.max(0, entry.tasks - done - runningUs.length);
    for (long elapsed : runningUs) left += Math.max(0.0, unit - elapsed);
    long committed = 0;
    for (long elapsed : runningUs) committed += (long) Math.max(0.0, unit - elapsed);
    user.committed += committed - entry.committed;
    entry.committed = committed;
    entry.left = (long) left;
    if (wall) return;
    long seen = entry.spent + entry.left;
    long work = Math.max(entry.prior, seen);
    long credit = Math.max(0, seen > 0 ? (long) ((double) work * entry.spent / seen) - entry.credited : 0);
    entry.credited += credit;
    entry.job.credited += credit;
    entry.job.known += work - entry.work;
    entry.work = work;
    resize(entry.job, false);
    virtual.serve(credit);
  }

  /** Spark has removed the task set: its work was done, or will never be. */
  void remove(Entry entry) {
    Job job = entry.job;
    entries.remove(entry.id);
    job.user.running -= entry.running;
    job.user.committed -= entry.committed;
    if (!wall) {
      job.known += entry.credited - entry.work;
      resize(job, false);
    }
    job.live--;
    if (job.live == 0) {
      job.idleSince = now;
      idle.add(new Idle(job, now));
    }
  }

  /** The given task sets as cores should be offered to them; those of a user at its cap are left out. */
  List<Entry> order(Collection<Entry> schedulable) {
    Entry starving = starving(schedulable);
    if (starving != null) return List.of(starving);
    Entry[] sorted = new Entry[schedulable.size()];
    int count = 0;
    for (Entry entry : schedulable) {
      User user = entry.job.user;
      if (user.cap < 1.0 && capped(user)) continue;
      entry.needy = user.running < user.minShare;
      entry.share = user.running / (entry.needy ? (double) user.minShare : user.weight);
      if (policy.queues()) entry.deadline = virtual.deadline(entry.job);
      sorted[count++] = entry;
    }
    Arrays.sort(sorted, 0, count, policy.order);
    if (policy.queues() && !wall) finishFirst(sorted, count);
    return Arrays.asList(sorted).subList(0, count);
  }

  /**
   * What has begun is put aside only for what is due earlier by more than estimates waver: were it put aside at once, jobs that
   * are alike would overtake each other with each task that ends, and all of them would end last.
   */
  private static void finishFirst(Entry[] sorted, int count) {
    int at = 0;
    while (at < count && !sorted[at].begun()) at++;
    if (at == count) return;
    Entry begun = sorted[at];
    Entry[] behind = new Entry[at];
    int ahead = 0;
    for (int n = 0; n < at; n++) {
      Entry other = sorted[n];
      double wavers = WAVERS * other.job.ranked / other.job.flow.weight;
      boolean earlier = other.needy != begun.needy || other.deadline < begun.deadline - wavers;
      if (earlier) sorted[ahead++] = other;
      else behind[n - ahead] = other;
    }
    sorted[ahead] = begun;
    System.arraycopy(behind, 0, sorted, ahead + 1, at - ahead);
  }

  /** Whether a user may start no task now: its bucket, less what its running tasks will still take, is empty. */
  boolean capped(User user) {
    if (user.cap >= 1.0) return false;
    user.refill(now, cores);
    return user.running >= Math.ceil(user.cap * cores) || user.tokens <= user.committed;
  }

  /**
   * A barrier stage needs all its cores at once and, where many small jobs take each core as it comes free, gets them never. One
   * that has waited too long is offered everything, alone, for a while.
   */
  private Entry starving(Collection<Entry> schedulable) {
    for (Entry entry : schedulable) {
      if (!entry.barrier || entry.running > 0) continue;
      double waited = now - entry.submitted;
      double phase = (waited - BARRIER_PATIENCE_MS) % (BARRIER_PATIENCE_MS + BARRIER_HOLD_MS);
      if (waited >= BARRIER_PATIENCE_MS && phase < BARRIER_HOLD_MS && !capped(entry.job.user)) return entry;
    }
    return null;
  }

  private void resize(Job job, boolean returning) {
    if (!policy.queues()) return;
    long total = Math.max(job.prior, job.known);
    double owed = virtual.resize(job, total, returning);
    virtual.setRest(job, total - job.credited);
    if (owed > 0) virtual.serve(owed);
  }

  private User enter(String name) {
    if (users.size() >= IDLE_USERS) users.values().removeIf(user -> user.jobs == 0);
    User user = new User(name, weights.getOrDefault(name, 1.0), now);
    if (caps.containsKey(name)) cap(user, caps.get(name));
    return user;
  }

  private Flow flow(String name, User user) {
    Flow flow = flows.computeIfAbsent(name, n -> new Flow(n, user.weight));
    if (!flow.active) flow.weight = user.weight;
    return flow;
  }

  private void reweigh(User user, double weight) {
    user.weight = weight;
    for (Flow flow : flowsOf(user)) virtual.setWeight(flow, weight);
  }

  private List<Flow> flowsOf(User user) {
    if (policy != Policy.CFQ) return flows.containsKey(user.name) ? List.of(flows.get(user.name)) : List.of();
    List<Flow> own = new ArrayList<>();
    for (Job job : jobs.values()) if (job.user == user) own.add(job.flow);
    return own;
  }

  private void cap(User user, double cap) {
    user.cap = cap;
    user.refilled = now;
    user.tokens = cap * cores * 1000.0 * User.BURST_MS;
  }

  /** Settles jobs that have ended and forgets those that owe nothing more. */
  private void tidy() {
    while (!idle.isEmpty() && now - idle.peek().since >= SETTLE_MS) {
      Idle since = idle.remove();
      if (since.still()) settle(since);
    }
    while (!settled.isEmpty() && now - settled.peek().since >= FORGET_MS) {
      Idle since = settled.peek();
      if (wall && since.still() && since.job.queued) break; // in the paper it owes until it is virtually done
      settled.remove();
      if (since.still()) forget(since.job);
    }
    if (!wall && entries.isEmpty() && idle.isEmpty()) virtual.serve(Double.MAX_VALUE); // nobody waits: what is left is rounding
    for (Flow flow : virtual.takeEmptied()) drop(flow);
  }

  private void settle(Idle since) {
    Job job = since.job;
    job.prior = 0;
    if (!wall) resize(job, false);
    if (policy.queues()) virtual.end(job);
    settled.add(since);
    if (job.recorded) return; // it came back after a pause
    job.recorded = true;
    job.user.finished++;
    job.user.responses += since.since - job.submitted;
    record.ended(job, since.since - job.submitted);
  }

  private void forget(Job job) {
    jobs.remove(job.key, job);
    job.user.jobs--;
    job.flow.jobs--;
    drop(job.flow);
  }

  /** A flow that is still active has had more than its share: forgotten now, it would come back without its debt. */
  private void drop(Flow flow) {
    if (flow.jobs == 0 && !flow.active) flows.remove(flow.name, flow);
  }

  Job job(String key) {
    return jobs.get(key);
  }

  double now() {
    return now;
  }

  VirtualQueue virtual() {
    return virtual;
  }

  Policy policy() {
    return policy;
  }

  Collection<User> users() {
    return users.values();
  }

  Collection<Job> jobs() {
    return jobs.values();
  }

  Collection<Entry> entries() {
    return entries.values();
  }

  int flows() {
    return flows.size();
  }

  Flow flowOf(User user) {
    return flows.get(user.name);
  }
}
