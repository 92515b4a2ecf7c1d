package headrace.scheduler;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.apache.spark.SparkContext;
import org.apache.spark.scheduler.Pool;
import org.apache.spark.scheduler.Schedulable;
import org.apache.spark.scheduler.SchedulingMode;
import org.apache.spark.scheduler.TaskSchedulerImpl;

/** What an order costs, ours and Spark's FAIR in one JVM over the same waiting task sets; and the queue alone at many users. */
public final class Ordering {
  private Ordering() {}

  /** Median microseconds of one order: {@code "fair"} through a FAIR pool of Spark's, else through the installed pool. */
  public static double sortUs(SparkContext context, String which, int rounds) {
    TaskSchedulerImpl scheduler = (TaskSchedulerImpl) context.taskScheduler();
    synchronized (scheduler) {
      Pool ours = (Pool) scheduler.rootPool().schedulableQueue().peek();
      List<Schedulable> waiting = new ArrayList<>(ours.schedulableQueue());
      Pool pool = ours;
      if (which.equals("fair")) {
        pool = new Pool("fair", SchedulingMode.FAIR(), 0, 1);
        for (Schedulable one : waiting) pool.addSchedulable(one);
      }
      double[] us = new double[rounds];
      for (int round = 0; round < rounds; round++) {
        long began = System.nanoTime();
        if (pool.getSortedTaskSetQueue().size() < waiting.size() / 2) throw new IllegalStateException("task sets are missing");
        us[round] = (System.nanoTime() - began) / 1e3;
      }
      for (Schedulable one : waiting) one.parent_$eq(ours);
      java.util.Arrays.sort(us);
      return us[rounds / 2];
    }
  }

  public static int waiting(SparkContext context) {
    return ((TaskSchedulerImpl) context.taskScheduler()).rootPool().schedulableQueue().peek().schedulableQueue().size();
  }

  /** Mean microseconds to serve, to place a job and to ask for its deadline, with so many active users of five jobs each. */
  public static double clockUs(int users, int operations) {
    SelfQueue queue = new SelfQueue(0.0);
    Random random = new Random(7);
    List<Flow> flows = new ArrayList<>();
    for (int n = 0; n < users; n++) flows.add(new Flow("user" + n, 1.0 + n % 3));
    List<Job> jobs = new ArrayList<>();
    for (int n = 0; n < users * 5; n++) {
      Job job = new Job("job" + n, flows.get(n % users), null, n, 0.0);
      queue.resize(job, 1_000_000 + random.nextInt(1_000_000), false);
      jobs.add(job);
    }
    double sum = 0;
    long began = System.nanoTime();
    for (int n = 0; n < operations; n++) {
      Job job = jobs.get(random.nextInt(jobs.size()));
      long total = job.work + 1 + random.nextInt(1_000);
      queue.resize(job, total, false);
      queue.setRest(job, total / 2);
      queue.serve(500.0);
      sum += queue.deadline(job);
    }
    double us = (System.nanoTime() - began) / 1e3 / operations;
    if (Double.isNaN(sum)) throw new IllegalStateException("a deadline is not a number");
    return us;
  }
}
