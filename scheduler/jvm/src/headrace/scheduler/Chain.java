package headrace.scheduler;

/**
 * A flow's jobs in the order in which they are virtually done, with sums of work.
 *
 * <p>A treap whose nodes are the jobs themselves: add, remove, first and prefix take O(log n) expected. Keys (due, seq) must
 * not change while a job is in it.
 */
final class Chain {
  private Job root;
  private int size;

  int size() {
    return size;
  }

  long sum() {
    return root == null ? 0 : root.sum;
  }

  Job first() {
    Job at = root;
    while (at != null && at.left != null) at = at.left;
    return at;
  }

  void add(Job job) {
    job.left = null;
    job.right = null;
    job.priority = mix(job.seq);
    job.sum = job.work;
    job.restSum = job.rest;
    root = insert(root, job);
    size++;
  }

  void remove(Job job) {
    root = delete(root, job);
    size--;
  }

  /** Work of the jobs up to and including this one. */
  long prefix(Job job) {
    long before = 0;
    Job at = root;
    while (at != job) {
      if (precedes(job, at)) {
        at = at.left;
      } else {
        before += at.sum - sum(at.right);
        at = at.right;
      }
    }
    return before + job.sum - sum(job.right);
  }

  /** Real work still to come of the jobs after this one. */
  long restAfter(Job job) {
    long after = 0;
    Job at = root;
    while (at != job) {
      if (precedes(job, at)) {
        after += at.restSum - restSum(at.left);
        at = at.left;
      } else {
        at = at.right;
      }
    }
    return after + restSum(job.right);
  }

  /** Changes what is still to come of a job that is in the chain. */
  void setRest(Job job, long rest) {
    long change = rest - job.rest;
    job.rest = rest;
    if (change == 0) return;
    for (Job at = root; at != job; at = precedes(job, at) ? at.left : at.right) at.restSum += change;
    job.restSum += change;
  }

  private static boolean precedes(Job a, Job b) {
    int order = Double.compare(a.due(), b.due());
    return order != 0 ? order < 0 : a.seq < b.seq;
  }

  private static Job insert(Job at, Job job) {
    if (at == null) return job;
    if (job.priority > at.priority) {
      split(at, job);
      return update(job);
    }
    if (precedes(job, at)) at.left = insert(at.left, job);
    else at.right = insert(at.right, job);
    return update(at);
  }

  /** Hangs what precedes the job under its left, the rest under its right. */
  private static void split(Job at, Job job) {
    if (at == null) {
      job.left = null;
      job.right = null;
    } else if (precedes(at, job)) {
      split(at.right, job);
      at.right = job.left;
      job.left = update(at);
    } else {
      split(at.left, job);
      at.left = job.right;
      job.right = update(at);
    }
  }

  private static Job delete(Job at, Job job) {
    if (at == job) return merge(at.left, at.right);
    if (precedes(job, at)) at.left = delete(at.left, job);
    else at.right = delete(at.right, job);
    return update(at);
  }

  private static Job merge(Job a, Job b) {
    if (a == null) return b;
    if (b == null) return a;
    if (a.priority >= b.priority) {
      a.right = merge(a.right, b);
      return update(a);
    }
    b.left = merge(a, b.left);
    return update(b);
  }

  private static Job update(Job at) {
    at.sum = at.work + sum(at.left) + sum(at.right);
    at.restSum = at.rest + restSum(at.left) + restSum(at.right);
    return at;
  }

  private static long sum(Job at) {
    return at == null ? 0 : at.sum;
  }

  private static long restSum(Job at) {
    return at == null ? 0 : at.restSum;
  }

  /** A priority that looks random and is the same in every run (splitmix64's finaliser). */
  private static int mix(long seq) {
    long z = seq * 0x9E3779B97F4A7C15L;
    z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
    z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
    return (int) (z >>> 33);
  }
}
