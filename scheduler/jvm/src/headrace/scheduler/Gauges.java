package headrace.scheduler;

import com.codahale.metrics.Gauge;
import com.codahale.metrics.MetricRegistry;
import java.util.Comparator;
import java.util.function.ToDoubleFunction;

/**
 * Gauges in Spark's own metrics, which Prometheus reads. Users appear by rank, never by name: a thousand users are not a
 * thousand series.
 */
final class Gauges {
  private static final int RANKS = 3;

  private Gauges() {}

  static void register(MetricRegistry metrics, Plugin.Installed on) {
    gauge(metrics, on, "users.active", queue -> queue.users().stream().filter(user -> user.jobs > 0).count());
    gauge(metrics, on, "jobs.waiting", queue -> queue.entries().stream().filter(e -> e.running == 0).count());
    gauge(metrics, on, "tasksets", queue -> queue.entries().size());
    gauge(metrics, on, "cores", FairQueue::cores);
    gauge(metrics, on, "virtual.time", queue -> queue.virtual().now);
    gauge(metrics, on, "response.p50.ms", queue -> on.recent().quantile(0.5));
    gauge(metrics, on, "response.p95.ms", queue -> on.recent().quantile(0.95));
    gauge(metrics, on, "sort.mean.us", queue -> on.pool().meanSortUs());
    gauge(metrics, on, "stepped.back", queue -> on.pool().broken() ? 1 : 0);
    gauge(metrics, on, "costs.known", queue -> on.costs().size());
    for (int rank = 1; rank <= RANKS; rank++) {
      int skipped = rank - 1;
      gauge(metrics, on, "top." + rank + ".running", queue -> ranked(queue, skipped, user -> user.running));
      gauge(metrics, on, "top." + rank + ".served.s", queue -> ranked(queue, skipped, user -> user.served / 1e6));
    }
  }

  private static double ranked(FairQueue queue, int skipped, ToDoubleFunction<User> value) {
    return queue.users().stream()
        .map(value::applyAsDouble)
        .sorted(Comparator.reverseOrder())
        .skip(skipped)
        .findFirst()
        .orElse(0.0);
  }

  private static void gauge(MetricRegistry metrics, Plugin.Installed on, String name, ToDoubleFunction<FairQueue> read) {
    metrics.register(
        name,
        (Gauge<Double>)
            () -> {
              synchronized (on.scheduler()) {
                on.pool().refresh(); // where nobody asks for an order, nobody else settles what has ended
                return read.applyAsDouble(on.pool().queue());
              }
            });
  }
}
