package headrace.benchmarks;

import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.util.ArrayList;
import java.util.List;
import org.apache.spark.api.java.JavaSparkContext;

/** A crowd's jobs: tasks that loop in the JVM, as the paper's do. */
public final class Crowd {
  private Crowd() {}

  /** Tasks of {@code us} CPU µs each; their time is the thread's own, so that it is the same on a busy machine. */
  public static void job(JavaSparkContext context, int tasks, long us) {
    List<Integer> rows = new ArrayList<>();
    for (int row = 0; row < tasks; row++) rows.add(row);
    context.parallelize(rows, tasks).map(row -> spun(us)).collect();
  }

  private static long spun(long us) {
    ThreadMXBean threads = ManagementFactory.getThreadMXBean();
    long end = threads.getCurrentThreadCpuTime() + us * 1_000;
    long loops = 0;
    while (threads.getCurrentThreadCpuTime() < end) loops++;
    return loops;
  }
}
